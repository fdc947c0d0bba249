"""How many cores there are to compute with."""

from deformable_detr_refine import machine


def test_a_containers_quota_bounds_the_usable_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "_QUOTA", tmp_path / "cpu.max")
    counts = []
    for text in (None, "max 100000", "150000 100000", "50000 100000", "1600000 100000"):
        if text:
            (tmp_path / "cpu.max").write_text(text)
        counts.append(machine.usable_cores())
    assert counts == [8, 8, 2, 1, 8]
