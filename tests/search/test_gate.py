import random
import threading
import time

from search.gate import Gate


def test_nothing_works_while_something_is_measured() -> None:
    gate, lock = Gate(), threading.Lock()
    working = measuring = 0
    clashes: list[tuple[int, int]] = []
    most_at_work = 0

    def enter(kind: str) -> None:
        nonlocal working, measuring, most_at_work
        with lock:
            working += kind == "work"
            measuring += kind == "quiet"
            most_at_work = max(most_at_work, working)
            if measuring > 1 or (measuring and working):
                clashes.append((working, measuring))

    def leave(kind: str) -> None:
        nonlocal working, measuring
        with lock:
            working -= kind == "work"
            measuring -= kind == "quiet"

    def worker(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(30):
            kind = rng.choice(["work", "work", "quiet"])
            with gate.work() if kind == "work" else gate.quiet():
                enter(kind)
                time.sleep(rng.random() * 0.002)
                leave(kind)

    threads = [threading.Thread(target=worker, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert clashes == []
    assert most_at_work > 1


def test_a_measurement_goes_before_work_that_comes_later() -> None:
    gate = Gate()
    order: list[str] = []
    first = gate.work()
    first.__enter__()

    def measure() -> None:
        with gate.quiet():
            order.append("measured")

    def work() -> None:
        with gate.work():
            order.append("worked")

    measuring = threading.Thread(target=measure)
    measuring.start()
    while not gate._waiting:
        time.sleep(0.001)
    working = threading.Thread(target=work)
    working.start()
    time.sleep(0.05)
    assert order == []
    first.__exit__(None, None, None)
    measuring.join(timeout=10)
    working.join(timeout=10)
    assert order == ["measured", "worked"]
