"""Every write, fsync, truncation, rename and removal, failing in turn: see `tests.faults.torment`."""
