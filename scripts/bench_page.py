"""How fast the page is in real Chromium: ``python scripts/bench_page.py [--store STORE] [--images 50000]``.

Serves a library of drawn pictures (or a store that is there) by ``streamer serve`` on this machine, and asks a headless
Chromium without a GPU, so that the two cores do all the work: server, page and painting. It measures

- the first contentful paint, and the first photos seen, each in a new profile with nothing cached,
- a search by a picture: from the file's choice to the new photos' being decoded, and what of that the request took,
- frames of the map while the wheel zooms and a drag pans, one event a frame: 16.7 ms is the screen's own rhythm,
- painting the map once, all of it in view, and the same points drawn as arcs of canvas 2D, pixels read back after both.

Prints a table and writes ``bench_page.json``. It needs the extras ``serve`` and ``browser``, and a Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from streamer.images.drawn import CLASSES, draw_pictures

ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

PAINTS = """async () => {
    const images = [...document.querySelectorAll("#results img")].slice(0, 10);
    await Promise.all(images.map((image) => image.decode()));
    return {
        first_paint: performance.getEntriesByName("first-contentful-paint")[0].startTime,
        first_photos: performance.now(),
    };
}"""

# From the choice of a file to the decoded photos of the answer; the first photo of the grid is another element then.
SEARCH = """async ([bytes, number]) => {
    const before = document.querySelector("#results .card");
    const input = document.querySelector("#file");
    const transfer = new DataTransfer();
    transfer.items.add(new File([new Uint8Array(bytes)], `query ${number}.jpg`, {type: "image/jpeg"}));
    performance.clearResourceTimings();
    const began = performance.now();
    input.files = transfer.files;
    input.dispatchEvent(new Event("change"));
    while (document.querySelector("#results .card") === before || !document.querySelector("#results .score")) {
        await new Promise(requestAnimationFrame);
    }
    await document.querySelector("#results img").decode();
    const seen = performance.now() - began;
    const request = performance.getEntriesByType("resource").find(({name}) => name.includes("/api/search"));
    return {search_seen: seen, search_request: request.duration};
}"""

MAP_FRAMES = """async (frames) => {
    const canvas = document.querySelector("#map-canvas");
    const {left, top, width, height} = canvas.getBoundingClientRect();
    const middle = {clientX: left + width / 2, clientY: top + height / 2};
    const place = {bubbles: true, cancelable: true, pointerId: 1, button: 0, ...middle};
    const measure = async (act) => {
        const times = [];
        let last = await new Promise(requestAnimationFrame);
        for (let frame = 0; frame < frames; frame++) {
            act(frame);
            const now = await new Promise(requestAnimationFrame);
            times.push(now - last);
            last = now;
        }
        return times;
    };
    const zoom = await measure((frame) =>
        canvas.dispatchEvent(new WheelEvent("wheel", {...place, deltaY: frame < frames / 2 ? -40 : 40})));
    canvas.setPointerCapture = () => {};
    canvas.dispatchEvent(new PointerEvent("pointerdown", place));
    const pan = await measure((frame) =>
        canvas.dispatchEvent(new PointerEvent("pointermove", {...place, clientX: place.clientX + 3 * frame})));
    canvas.dispatchEvent(new PointerEvent("pointerup", place));
    return {zoom, pan};
}"""

MAP_PAINTS = """async (rounds) => {
    const load = (name) => import(`/static/${name}.js`);
    const [{Painter}, {Points}, {Viewport}, {pixelColours, cssColour}] =
        await Promise.all(["paint", "points", "viewport", "colours"].map(load));
    const points = new Points(await (await fetch("/api/map")).arrayBuffer());
    const viewport = Object.assign(new Viewport(), {width: 1000, height: 700});
    const canvas = document.createElement("canvas");
    const painter = new Painter(canvas);
    const context = canvas.getContext("2d");
    painter.resize(1000, 700, 1);
    const style = {colours: pixelColours(points.labelCount, false), background: [255, 255, 255]};
    const colours = Array.from({length: points.labelCount}, (_, label) => cssColour(label, false));
    const radius = painter.radius(points.count, viewport);
    const arcs = () => {
        context.fillStyle = "white";
        context.fillRect(0, 0, 1000, 700);
        for (let point = 0; point < points.count; point++) {
            const [left, top] = viewport.toScreen(points.x[point], points.y[point]);
            context.fillStyle = colours[points.labels[point]] ?? "grey";
            context.beginPath();
            context.arc(left, top, radius, 0, 2 * Math.PI);
            context.fill();
        }
    };
    const taken = {map_paint: [], map_arcs: []};
    for (let round = 0; round < rounds; round++) {
        for (const [name, draw] of [["map_paint", () => painter.paint(points, viewport, style)], ["map_arcs", arcs]]) {
            const began = performance.now();
            draw();
            context.getImageData(0, 0, 1, 1);
            taken[name].push(performance.now() - began);
        }
    }
    return taken;
}"""


def make_store(folder: Path, images: int) -> Path:
    """Draw so many pictures and index them with the compact network; each that is drawn is there in eight turns."""
    turns = [None, *Image.Transpose]
    drawn = draw_pictures(folder / "pictures", per_class=-(-images // len(CLASSES) // len(turns)), side=64, seed=1)
    for path in drawn:
        with Image.open(path) as picture:
            for turn in turns[1:]:
                picture.transpose(turn).save(path.with_stem(f"{path.stem}_{turn.name.lower()}"), quality=90)
    config = folder / "bench.yaml"
    config.write_text(
        "store: photos.store\nsource: {folder: pictures}\nbackbone: {name: vgg16_compact}\nindex: {kind: ivf}\n",
        encoding="utf-8",
    )
    subprocess.run([sys.executable, "-m", "streamer", "run", str(config)], check=True)
    return folder / "photos.store"


@contextlib.contextmanager
def serving(store: Path) -> Iterator[str]:
    """Serve a store on a free port of this machine; gives the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "streamer", "serve", str(store), "--port", str(port), "--quiet"],
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    break
            if server.poll() is not None:
                sys.exit("streamer serve ended before it answered; what it said stands above")
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait()


def measure(address: str, queries: list[Path], rounds: int, frame_count: int) -> dict[str, list[float]]:
    """Visit the page; every figure is in milliseconds."""
    from playwright.sync_api import sync_playwright

    taken: dict[str, list[float]] = {}

    def note(figures: dict[str, Any]) -> None:
        for name, value in figures.items():
            taken.setdefault(name, []).extend(value if isinstance(value, list) else [value])

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 860})
            page = context.new_page()
            page.goto(address)
            page.locator("#results img").nth(9).wait_for()
            note(page.evaluate(PAINTS))
            for number, query in enumerate(queries):
                note(page.evaluate(SEARCH, [list(query.read_bytes()), number]))
            page.goto(f"{address}/#view=map")
            page.locator("#legend button").first.wait_for()
            page.wait_for_timeout(500)
            frames = page.evaluate(MAP_FRAMES, frame_count)
            note({f"map_{name}_frame": times for name, times in frames.items()})
            note(page.evaluate(MAP_PAINTS, 10))
            context.close()
        browser.close()
    return taken


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="a store that is there, in the place of drawn pictures")
    parser.add_argument("--images", type=int, default=50_000, help="how many pictures to draw (default 50000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=6, help="searches a round, 12 at most")
    parser.add_argument("--frames", type=int, default=120, help="of the map, zoomed and panned")
    parser.add_argument("--output", type=Path, default=Path("artifacts"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = arguments.store or make_store(Path(scratch), arguments.images)
        queries = draw_pictures(Path(scratch) / "queries", per_class=1, side=640, seed=9)[: arguments.queries]
        with serving(store) as address:
            with urllib.request.urlopen(f"{address}/api/info") as answer:  # noqa: S310
                images = json.load(answer)["images"]
            taken = measure(address, queries, arguments.rounds, arguments.frames)
    rows = [
        {
            "what": name,
            "median_ms": round(statistics.median(times), 1),
            "p95_ms": round(sorted(times)[int(0.95 * (len(times) - 1))], 1),
            "largest_ms": round(max(times), 1),
            "measured": len(times),
        }
        for name, times in taken.items()
    ]
    print(f"{images} photos\n{'':16}{'median ms':>10}{'p95 ms':>10}{'largest ms':>12}{'measured':>10}")
    for row in rows:
        print(f"{row['what']:16}{row['median_ms']:10}{row['p95_ms']:10}{row['largest_ms']:12}{row['measured']:10}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results = {"images": images, "rounds": arguments.rounds, "rows": rows}
    (arguments.output / "bench_page.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
