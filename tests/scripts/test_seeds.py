"""The scripts that stand in for known systems, and the benchmark of search, run on a few drawn pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def script(name: str, *arguments: object) -> str:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_a_picture(path: Path) -> bool:
    """It has more than one colour."""
    with Image.open(path) as picture:
        return len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


def test_reverse_image_search(tmp_path: Path, pictures: Path) -> None:
    said = script("reverse_image_search.py", pictures, "--output", tmp_path, "--queries", 3)
    assert len(said.splitlines()) == 3
    for line in said.splitlines():
        query, _, hits = line.partition(": ")
        assert len(hits.split(", ")) == 5 and query not in hits
    assert is_a_picture(tmp_path / "reverse_image_search.png")


def test_clusters(tmp_path: Path, pictures: Path) -> None:
    said = script("clusters.py", pictures, "--output", tmp_path, "--set", "index.clusters=4")
    counts = [int(line.split(": ")[1].split()[0]) for line in said.splitlines()]
    assert sum(counts) == 40 and len(counts) == len(list((tmp_path / "clusters").iterdir()))
    assert is_a_picture(tmp_path / "cluster_searches.png") and is_a_picture(tmp_path / "clusters" / "cluster-00000.png")


def test_stl10_knn(tmp_path: Path, pictures: Path) -> None:
    """The split is 9 : 1, and no query is among those it is compared with."""
    said = script("stl10_knn.py", "--photos", pictures, "--output", tmp_path)
    assert "of the votes are right" in said
    with np.load(tmp_path / "stl10_knn.npz") as found:
        assert found["ids"].shape == found["distances"].shape == (4, 3)
        assert not set(found["query_ids"].tolist()) & set(found["ids"].ravel().tolist())
        assert (np.diff(found["distances"], axis=1) >= 0).all() and found["distances"].min() > 0
    assert is_a_picture(tmp_path / "stl10_knn.png")


@pytest.mark.slow
def test_the_benchmark_of_search_measures_what_it_says(tmp_path: Path) -> None:
    script("bench_search.py", "--parts", "notebook", "brute", "--scale", 0.02, "--output", tmp_path)
    found = json.loads((tmp_path / "bench_search.json").read_text())
    assert found["brute"]["same_neighbours"] == 1 and found["brute"]["largest_difference_of_distances"] < 1e-5
    assert found["notebook"]["rows"] == 182 and found["notebook"]["ours_ms"] > 0
    assert [goal.partition(":")[0] for goal, *_ in found["goals"]] == ["notebook loop", "scikit-learn brute"]
