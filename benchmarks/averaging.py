"""Update, swap, host time, memory, files and start-up of averagers, ours and others'.

python benchmarks/averaging.py                 # all models, about 10 minutes on one core
python benchmarks/averaging.py --models resnet18 tiny --rounds 7
python benchmarks/averaging.py --models tiny --threads 2 --parts updates
"""

import argparse
import gc
import multiprocessing
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import subjects
import timing
import torch
from safetensors.torch import load_file, save_file

import polyak

MODELS = (
    "resnet18",
    "vgg16",
    "resnet50-sized",
    "wrn28_10",
    "resnet18-channels-last",
    "resnet18-strided",
    "tiny",
    "small-batchnorm",
    "gpt2-sized",
)
FEW = ("polyak", "polyak, no guard", "ema-pytorch, foreach", subjects.BASELINE)
"""What is built of a model of which all tools together need too much memory."""
PARTS = ("updates", "host", "memory", "files", "start")


def updates(name: str, averages: int, rounds: int) -> None:
    """CPU time of one update of all averages, against the best other tool."""
    model = subjects.subject_model(name)
    tools = FEW if name == "gpt2-sized" else tuple(subjects.SUBJECTS)
    built = {tool: subjects.SUBJECTS[tool](model, averages) for tool in tools}
    seconds = timing.interleaved({k: s.update for k, s in built.items()}, rounds=rounds)
    peers = [t for t in seconds if t not in (*subjects.OURS, subjects.BASELINE)]
    best = min(peers, key=lambda tool: timing.median(seconds[tool]))
    values = sum(p.numel() for p in model.parameters())
    floor = (1 + 2 * averages) * 4 * values / timing.bandwidth()
    print(f"\n### {name}, {averages} average{'s' if averages > 1 else ''}\n")
    print(
        "| tool | median ms | of the best other: low / median / high | of five lines "
        "| of the memory limit |"
    )
    print("|---|---|---|---|---|")
    for tool, times in sorted(seconds.items(), key=lambda item: timing.median(item[1])):
        low, middle, high = timing.ratios(times, seconds[best])
        share = floor / timing.median(times)
        print(
            f"| {tool} | {1e3 * timing.median(times):.3g} | {low:.2f} / {middle:.2f} / {high:.2f} "
            f"| {timing.ratios(times, seconds[subjects.BASELINE])[1]:.2f} | {share:.0%} |"
        )


def swaps(rounds: int) -> None:
    """CPU time of lending an average to the model and taking it back."""
    model = subjects.subject_model("resnet18")
    calls = {}
    for tool in ("polyak", "torch-ema"):
        swap = subjects.SUBJECTS[tool](model, 1).swap
        assert swap is not None
        calls[tool] = _entered(swap)
    _print_small("swap in and out", calls, rounds)


def host(rounds: int) -> None:
    """Time of an update of five averages that is not memory: ResNet-18 with tiny tensors."""
    model = subjects.shrunk(subjects.subject_model("resnet18"))
    built = {tool: make(model, 5) for tool, make in subjects.SUBJECTS.items()}
    calls = {tool: subject.update for tool, subject in built.items()}
    _print_small("host time of an update, M = 5", calls, rounds)


def idle_step(rounds: int) -> None:
    """What a step without an update adds to the optimizer's, attached: CPU microseconds."""
    steps = {}
    for attached in (False, True):
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        model(torch.ones(2)).sum().backward()
        if attached:
            polyak.Averager(model, 0.9, every=10**9).attach(optimizer)
        steps[attached] = _repeated(optimizer.step, 100)
    seconds = timing.interleaved(steps, rounds=10 * rounds, flush=False)
    bare, whole = (1e6 * timing.median(seconds[x]) / 100 for x in (False, True))
    print(f"| an attached step without an update | bare {bare:.1f} µs | + {whole - bare:.1f} µs |")


def _repeated(call: Callable[[], object], times: int) -> Callable[[], None]:
    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def files(rounds: int) -> None:
    """CPU time of saving and loading five averages of a ResNet-50 size, and memory on the way."""
    averager = polyak.Averager(subjects.subject_model("resnet50-sized"), list(subjects.DECAYS))
    rows = {
        f"{name}/{key}": x
        for name, row in averager.state_dict()["tensors"].items()
        for key, x in row.items()
    }
    size = sum(x.numel() * x.element_size() for x in rows.values()) / len(subjects.DECAYS)
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        path = Path(folder) / "averages.safetensors"
        calls: dict[str, Callable[[], object]] = {
            "safetensors.save_file of the tensors": lambda: save_file(rows, path),
            "polyak.save(averager)": lambda: polyak.save(averager, path),
            "safetensors.load_file, cloned": lambda: {
                key: x.clone() for key, x in load_file(path).items()
            },
            "polyak.load": lambda: polyak.load(path),
        }
        for name, call in calls.items():
            cpu, wall, peak = zip(*(_measured(call) for _ in range(rounds)), strict=True)
            print(
                f"| {name} | {min(cpu):.3f} s | {min(wall):.3f} s | {max(peak) / size:.2f} models |"
            )


def _measured(call: Callable[[], object]) -> tuple[float, float, int]:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before, wall, cpu = _peak(), time.perf_counter(), time.process_time()
    result = call()
    spent = (time.process_time() - cpu, time.perf_counter() - wall, _peak() - before)
    del result
    return spent


def start(rounds: int) -> None:
    """CPU time of importing the plug-in, beside that of torch alone."""
    for what in ("import torch", "import polyak", "from polyak import Averager"):
        times = [_child_seconds(what) for _ in range(min(rounds, 5))]
        print(f"| {what} | {min(times):.2f} s |")


def _child_seconds(code: str) -> float:
    code = f"import time\n{code}\nprint(time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _print_small(what: str, calls: dict[str, Callable[[], object]], rounds: int) -> None:
    """Small times twice: in turns with cold caches, and alone with warm ones."""
    cold = timing.interleaved(calls, rounds=rounds)
    warm = timing.alone(calls, rounds=rounds)
    for tool in calls:
        times = (1e3 * timing.median(seconds[tool]) for seconds in (cold, warm))
        print(f"| {what} | {tool} | {next(times):.2f} ms | {next(times):.2f} ms |")


def memory() -> None:
    """Growth of the resident set by five averages and two updates, in sizes of the model."""
    context = multiprocessing.get_context("spawn")
    for tool in (x for x in subjects.SUBJECTS if x != subjects.BASELINE):
        with context.Pool(1) as pool:
            copies = pool.apply(_growth, (tool,))
        print(f"| memory for 5 averages, peak | {tool} | {copies:.2f} models |")


def _growth(tool: str) -> float:
    torch.set_num_threads(1)
    model = subjects.subject_model("resnet50-sized")
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    gc.collect()
    # Linux forgets the highest mark so far.
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    subject = subjects.SUBJECTS[tool](model, 5)
    subject.update()
    subject.update()
    return (_peak() - before) / size


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def _entered(swap: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        with swap():
            pass

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    how = "one thread, CPU time" if arguments.threads == 1 else f"{arguments.threads} threads, wall"
    print(f"{subjects.versions()}; {how}, {rounds} rounds interleaved")
    if "updates" in arguments.parts:
        for name in arguments.models:
            for averages in (1,) if name == "gpt2-sized" else (1, 5):
                updates(name, averages, rounds)
                gc.collect()
    if "host" in arguments.parts:
        print("\n| what | tool | in turns, cold | alone, warm |\n|---|---|---|---|")
        host(rounds=4 * rounds)
        swaps(rounds=4 * rounds)
        print("\n| what | | |\n|---|---|---|")
        idle_step(rounds)
    if "memory" in arguments.parts:
        print("\n| what | tool | |\n|---|---|---|")
        memory()
    if "files" in arguments.parts:
        print("\n| what | CPU | wall | peak beyond what was there |\n|---|---|---|---|")
        files(min(rounds, 3))
    if "start" in arguments.parts:
        print("\n| what | CPU |\n|---|---|")
        start(rounds)


if __name__ == "__main__":
    main()
