"""Kill stage 1, growth, repair and training at random moments; flip bits; share one store.

    nice -n 10 python benchmarks/torture.py --seed 0 --kills 500 --flips 1000 --out /tmp/torture

Every command is the real one in a process of its own, ended by SIGKILL. After each kill the store
is verified in full; then the same command runs again, and is killed again or ends, and what it
leaves is compared with what an undisturbed run leaves: byte for byte in every file but the commits,
whose timings differ; a trained run tensor for tensor. Flips are single bits at random places in
records, indexes, commits and documents: each must be found by a full verification, and repaired to
the original. Networks are tiny, and loaded once before the processes are forked, so that a trial
takes part of a second. Linux only. Prints the seed, the counts and a verdict; exits with 1 if
anything is not as promised, and leaves that store where it is.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

import cli
import pipeline.bar
import pipeline.precompute
import pipeline.repair
from cache import NotAStore, StoreError, verify_store
from cache.format.layout import DOCUMENT, IMAGES
from configs import Config, load_config
from pipeline.job import Job, load_job

sys.path.insert(0, str(Path(__file__).parents[1]))  # Tests are not installed; their networks serve.
from tests import tiny

SHARES = {"precompute": 0.6, "growth": 0.2, "repair": 0.15, "training": 0.05}
"""How the kills are spread over the commands."""
N_ROUNDS_TOGETHER = 3
PARTS = ("1/1", "1/1", "1/2", "2/2", "1/3", "2/3", "3/3", "2/4")
"""Eight processes on one store: two do all of it, the others parts that overlap."""


class Broken(Exception):
    """A promise was not kept; the message says which, and where the store is."""


@dataclass
class Commands:
    """Runs commands in forked processes; ends some of them before they are done."""

    log: Path
    rng: random.Random
    seconds: dict[str, float] = field(default_factory=dict)
    """How long each kind takes undisturbed: the latest measurement."""

    def start(
        self, arguments: Sequence[str | Path], prepare: Callable[[], object] = lambda: None
    ) -> int:
        """Begin a command; its process number. `prepare` is called in that process."""
        process = os.fork()
        if process == 0:
            code = 1
            try:
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1)
                os.dup2(log, 2)
                sys.stdout = sys.stderr = os.fdopen(log, "a", buffering=1)
                prepare()
                cli.main([str(argument) for argument in arguments])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            finally:
                os._exit(code)
        return process

    def finish(self, kind: str, arguments: Sequence[str | Path]) -> None:
        """Run a command to its end. Raises Broken where it fails."""
        start = time.perf_counter()
        code = os.waitstatus_to_exitcode(os.waitpid(self.start(arguments), 0)[1])
        self.seconds[kind] = time.perf_counter() - start
        if code:
            raise Broken(f"{' '.join(map(str, arguments))}: exit code {code}; see {self.log}")

    def kill(self, kind: str, arguments: Sequence[str | Path]) -> bool:
        """Run a command and kill it at a random moment; whether it was still running."""
        process = self.start(arguments)
        time.sleep(self.rng.uniform(0, self.seconds[kind]))
        os.kill(process, signal.SIGKILL)
        return os.WIFSIGNALED(os.waitpid(process, 0)[1])


class World:
    """Tiny networks, pictures and a configuration; and what undisturbed commands make of them."""

    def __init__(self, out: Path, commands: Commands) -> None:
        self.out = out
        self.commands = commands
        self.config = out / "config.yaml"
        tiny.save_tiny_sd(out / "sd", text="null_prompt")
        tiny.save_tiny_clip(out / "clip", image_size=32)
        for part in ("photo", "sketch"):
            for number in range(2):
                folder = out / "pictures" / part / f"class{number}"
                paths = tiny.write_images(folder, 4, seed=2 * number + (part == "photo"))
        tiny.truncate(paths[2])
        (out / "config.yaml").write_text(
            yaml.safe_dump(
                {
                    "backbone": {
                        "sd": {"source": "sd"},
                        "clip": {
                            "model": "clip/tiny-vit.json",
                            "pretrained": "clip/tiny-vit.safetensors",
                        },
                        "resolution": 32,
                    },
                    "dataset": {"name": "folder", "root": "pictures"},
                    "extraction": {
                        "timesteps": [7, 195],
                        "layers": ["s4", "s5"],
                        "store_dtype": "int8",
                        "shard_size": 3,
                        "batch_size": 3,
                        "workers": 0,
                        "device": "cpu",
                    },
                    "task": "recognition",
                    "train": {
                        "features": ["sd", "clip"],
                        "width": 8,
                        "grid": 2,
                        "epochs": 2,
                        "batch_size": 4,
                        "device": "cpu",
                    },
                }
            )
        )
        self.whole, self.begun, self.run = out / "whole", out / "begun", out / "run"
        commands.finish("precompute", self.precompute(self.whole))
        commands.finish("precompute", self.precompute(self.begun, *self.few))
        self.grown = self.copy(self.begun, "grown")
        commands.finish("growth", self.precompute(self.grown))

    few = ("dataset.limit=7", "extraction.timesteps=[195]")

    def precompute(self, store: Path, *sets: str, part: str = "1/1") -> list[str | Path]:
        """The arguments of a precompute."""
        changes = [word for item in sets for word in ("--set", item)]
        return ["precompute", self.config, "--out", store, "--part", part, *changes]

    def repair(self, store: Path) -> list[str | Path]:
        """The arguments of a repair."""
        return ["cache", "repair", store, self.config]

    def train(self, run: Path) -> list[str | Path]:
        """The arguments of a training, of a run that may be there already."""
        resume = ["--resume"] if (run / "config.yaml").exists() else []
        return ["train", self.config, "--cache", self.whole, "--out", run, *resume]

    def copy(self, store: Path, name: str) -> Path:
        """A copy to be disturbed."""
        target = self.out / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(store, target)
        return target


@contextmanager
def shared_networks() -> Iterator[None]:
    """Load the networks once, here, instead of in every process that is forked."""

    @functools.cache
    def shared(text: str) -> Job:
        return load_job(Config.model_validate_json(text))

    def load(config: Config) -> Job:
        return shared(config.model_dump_json())

    for name in ("heads.training.bar", "heads.training.cycle"):  # What `train` imports.
        importlib.import_module(name)
    modules: tuple[Any, ...] = (pipeline.precompute, pipeline.repair)
    try:
        for module in modules:
            module.load_job = load
        yield
    finally:
        for module in modules:
            module.load_job = load_job


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but its lock; commits without their timings and machines."""
    found = {}
    for file in sorted(store.rglob("*")):
        name = file.relative_to(store).as_posix()
        if file.is_file() and name != ".lock":
            data = file.read_bytes()
            if name.startswith("commits/") and not name.endswith(".tmp"):
                document = json.loads(data)
                # A lost commit was the only one to know who had computed its shard.
                document |= dict.fromkeys(("timings", "computed_by", "checksum"))
                data = json.dumps(document, sort_keys=True).encode()
            found[name] = data
    return found


def compare(store: Path, expected: Path) -> None:
    """Raise Broken unless two stores are equal."""
    ours, theirs = contents(store), contents(expected)
    wrong = sorted(
        name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)
    )
    if wrong:
        raise Broken(f"{store}: differs from {expected} in {', '.join(wrong[:5])}")


def check_killed(store: Path) -> None:
    """Raise Broken if a kill has damaged a store."""
    try:
        report = verify_store(store)
    except NotAStore:
        return  # Killed before there was one.
    if not report.sound:
        raise Broken(f"{store}: damaged by a kill: {report.problems[0]}")


def kill_store(
    world: World, kind: str, n_kills: int, prepare: Callable[[Path], Path], expected: Path
) -> int:
    """Kill and resume until there were so many kills; the number of stores that were completed."""
    commands, kills, stores = world.commands, 0, 0
    while kills < n_kills:
        store = prepare(world.out / "victim")
        arguments = world.repair(store) if kind == "repair" else world.precompute(store)
        while kills < n_kills and commands.kill(kind, arguments):
            kills += 1
            if kind != "repair":  # A store under repair is damaged until it is repaired.
                check_killed(store)
            if commands.rng.random() < 0.5:
                break
        commands.finish(kind, arguments)
        compare(store, expected)
        stores += 1
    return stores


def kill_training(world: World, n_kills: int) -> int:
    """The same for a run, whose weights have to be equal tensor for tensor."""
    commands, kills, runs = world.commands, 0, 0
    if n_kills:
        commands.finish("training", world.train(world.run))
    while kills < n_kills:
        run = world.out / "victim-run"
        shutil.rmtree(run, ignore_errors=True)
        while kills < n_kills and commands.kill("training", world.train(run)):
            kills += 1
            if commands.rng.random() < 0.5:
                break
        commands.finish("training", world.train(run))
        for name in ("best.safetensors", "last.safetensors"):
            ours, theirs = load_file(run / name), load_file(world.run / name)
            if ours.keys() != theirs.keys() or any(
                not torch.equal(ours[key], theirs[key]) for key in ours
            ):
                raise Broken(f"{run / name}: differs from {world.run / name}")
        runs += 1
    return runs


def flip(file: Path, bit: int) -> None:
    """Turn one bit around."""
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def places(store: Path) -> dict[str, list[tuple[Path, int, int]]]:
    """Where bits can be flipped, by kind: file, first and last bit."""
    index_bytes = 3 * 16 + 4
    found: dict[str, list[tuple[Path, int, int]]] = {
        "records": [], "indexes": [], "commits": [], "documents": []
    }  # fmt: skip
    for file in sorted(store.rglob("*")):
        if not file.is_file() or file.name == ".lock":
            continue
        n_bits = 8 * file.stat().st_size
        if file.name in (DOCUMENT, IMAGES):
            found["documents"].append((file, 0, n_bits))
        elif file.parent.name == "commits":
            found["commits"].append((file, 0, n_bits))
        elif "pooled" in file.parts:
            found["records"].append((file, 0, n_bits))
        else:
            found["records"].append((file, 0, n_bits - 8 * index_bytes))
            found["indexes"].append((file, n_bits - 8 * index_bytes, n_bits))
    return found


def flip_bits(world: World, n_flips: int) -> dict[str, int]:
    """Flip single bits: each must be found. Then flip them in groups, and repair each group."""
    rng = world.commands.rng
    store = world.copy(world.whole, "flipped")
    by_kind = places(store)
    counts = dict.fromkeys(by_kind, 0)
    group: dict[Path, int] = {}
    for number in range(n_flips):
        kind = list(by_kind)[number * len(by_kind) // n_flips]
        file, first, last = rng.choice(by_kind[kind])
        bit = rng.randrange(first, last)
        flip(file, bit)
        if verify_store(store).sound:
            raise Broken(f"{store}: bit {bit} of {file} is flipped and was not found")
        flip(file, bit)
        counts[kind] += 1
        group[file] = bit
        ends = (
            number + 1 == n_flips or kind != list(by_kind)[(number + 1) * len(by_kind) // n_flips]
        )
        if len(group) == 5 or ends:
            for file, bit in group.items():
                flip(file, bit)
            try:
                report = pipeline.repair.repair(load_config(world.config), store)
            except StoreError as error:
                raise Broken(f"{store}: not repaired: {error}; flipped: {group}") from error
            if not report.sound:
                raise Broken(f"{store}: not repaired: {report.left[0]}; flipped: {group}")
            compare(store, world.whole)
            group, by_kind = {}, places(store)  # Commits have new timings, and other lengths.
    return counts


def work_together(world: World, n_rounds: int) -> None:
    """Eight processes on one store, and one of them killed."""
    commands = world.commands
    for _ in range(n_rounds):
        store = world.out / "shared"
        shutil.rmtree(store, ignore_errors=True)
        processes = [commands.start(world.precompute(store, part=part)) for part in PARTS]
        time.sleep(commands.rng.uniform(0, 2 * commands.seconds["precompute"]))
        os.kill(processes[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        if any(codes[1:]):
            raise Broken(f"{store}: of eight processes some failed: {codes}; see {commands.log}")
        check_killed(store)
        commands.finish("precompute", world.precompute(store))
        compare(store, world.whole)


def torture(
    world: World, n_kills: int, n_flips: int, n_rounds: int = N_ROUNDS_TOGETHER
) -> Iterator[str]:
    """All of it, with a line for each part. Raises Broken."""
    rng = world.commands.rng

    def empty(path: Path) -> Path:
        shutil.rmtree(path, ignore_errors=True)
        return path

    def damaged(path: Path) -> Path:
        store = world.copy(world.whole, path.name)
        kinds = places(store)
        damageable = [place for kind in kinds if kind != "documents" for place in kinds[kind]]
        for file, first, last in rng.sample(damageable, 4):
            flip(file, rng.randrange(first, last))
        return store

    n_of = {kind: round(share * n_kills) for kind, share in SHARES.items()}
    n_of["precompute"] += n_kills - sum(n_of.values())
    world.commands.seconds["repair"] = world.commands.seconds["precompute"]
    for kind, prepare, expected in (
        ("precompute", empty, world.whole),
        ("growth", lambda path: world.copy(world.begun, path.name), world.grown),
        ("repair", damaged, world.whole),
    ):
        stores = kill_store(world, kind, n_of[kind], prepare, expected)
        yield f"{kind}: {n_of[kind]} kills, {stores} stores completed, all equal"
    runs = kill_training(world, n_of["training"])
    yield f"training: {n_of['training']} kills, {runs} runs completed, all equal"
    counts = flip_bits(world, n_flips)
    by_kind = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    yield f"flips: {n_flips} of {n_flips} found and repaired ({by_kind})"
    work_together(world, n_rounds)
    yield f"eight processes on one store, one killed: {n_rounds} rounds, all equal"


def main() -> None:
    """Read the arguments; print the seed, the counts and a verdict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True, help="A folder that is not there yet.")
    arguments = parser.parse_args()
    start = time.perf_counter()
    print(f"seed {arguments.seed}, kills {arguments.kills}, flips {arguments.flips}", flush=True)
    try:
        arguments.out.mkdir(parents=True)
        torch.set_num_threads(1)
        commands = Commands(arguments.out / "log.txt", random.Random(arguments.seed))
        with shared_networks():
            world = World(arguments.out, commands)
            for line in torture(world, arguments.kills, arguments.flips):
                print(line, flush=True)
    except Broken as broken:
        print(f"BROKEN (seed {arguments.seed}): {broken}")
        sys.exit(1)
    print(f"nothing damaged, nothing lost; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
