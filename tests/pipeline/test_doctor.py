"""The doctor: each check can fail, says what to do, and never waits or downloads."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cli import main
from configs import load_config
from heads.doctor import check_protocol, diagnose
from pipeline import doctor
from pipeline.doctor import Asked, Finding, examine, why_unreachable
from pipeline.machine import machine_memory
from tests.tiny import save_tiny_clip, save_tiny_sd, truncate, write_images

NANO = ["backbone.weights=random", "dataset.size=40"]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network and an empty hub cache, whatever this machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(doctor, "why_unreachable", lambda url, seconds: "no network in tests")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert "Traceback" not in result.output
    return result


def asked(*overrides: str, preset: str = "demo") -> Asked:
    return Asked(load_config(preset, overrides))


def the(findings: Any, level: str | None = None) -> Finding:
    """The only finding, or the only one of a level."""
    (found,) = [finding for finding in findings if level in (None, finding.level)]
    return found


def test_a_machine_without_configuration_is_ready(tmp_path: Path) -> None:
    found = diagnose(None, tmp_path / "stores" / "new")
    assert found.ready
    checks = {finding.check for finding in found.findings}
    assert checks >= {"python", "packages", "optional", "device", "memory", "disk", "hub"}
    weights = {
        finding.what.partition(":")[0]: finding.level
        for finding in found.findings
        if finding.check == "weights"
    }
    # Missing weights of presets that nobody asked for are no problem.
    assert weights["sd21-clip-l336"] == weights["dinov2"] == "note"
    assert weights["nano"] == "ok"
    assert all(finding.advice for finding in found.findings if finding.level != "ok")


def test_a_configuration_that_can_run_is_ready() -> None:
    result = run("shapes/retrieval", *(f"--set={item}" for item in NANO))
    assert result.exit_code == 0, result.output
    assert "ok       dataset" in result.stdout
    assert "40 images, " in result.stdout
    assert "retrieval by shapes-24-8" in result.stdout


def test_json_is_one_object_and_a_problem_exits_with_one(tmp_path: Path) -> None:
    result = run("demo", "--set", "dataset=folder", "--out", str(tmp_path / "s"), "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert set(document) == {"config", "ready", "findings"}
    assert document["config"] == "demo"
    assert document["ready"] is False
    assert all(set(one) == {"check", "level", "what", "advice"} for one in document["findings"])
    problem = next(one for one in document["findings"] if one["level"] == "problem")
    assert problem["check"] == "dataset"
    assert "dataset.root" in problem["what"] + problem["advice"]


def test_overrides_need_a_configuration() -> None:
    result = run("--set", "dataset.size=6")
    assert result.exit_code == 2
    assert "name one" in result.stderr


def test_python_and_packages_are_compared_with_what_the_project_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project = {
        "requires-python": ">=99",
        "dependencies": ["numpy>=1.26", "torch>=99", "no-such-package>=1", "dask[array]>=2024.8"],
    }
    monkeypatch.setattr(doctor, "_project", lambda: project)
    assert "but >=99 is needed" in the(doctor.check_python(Asked())).what
    *problems, rest = doctor.check_packages(Asked())
    assert [problem.level for problem in problems] == ["problem", "problem"]
    assert "torch is " in problems[0].what
    assert problems[0].advice == "python -m pip install 'torch>=99'"
    assert problems[1].what == "no-such-package is not installed"
    assert rest.what.startswith("2 as wanted: numpy ")


def test_an_installed_copy_knows_its_minimums_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_PYPROJECT", tmp_path / "pyproject.toml")
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda name: ["numpy>=1.26", 'ruff; extra == "dev"']
    )
    assert the(doctor.check_packages(Asked())).what.startswith("1 as wanted: numpy ")
    assert the(doctor.check_python(Asked())).level == "ok"


def test_a_broken_package_is_a_finding_and_the_rest_is_still_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    findings = examine(Asked(), (doctor.check_devices, doctor.check_memory))
    assert [finding.check for finding in findings] == ["devices", "memory"]
    assert findings[0].level == "problem"
    assert "ImportError" in findings[0].what or "ModuleNotFoundError" in findings[0].what


def test_the_command_works_where_torch_does_not() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import cli; from pipeline import doctor; "
        "doctor.HUB_SECONDS = 0.1; cli.main(['doctor'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert result.stderr == ""
    assert "ok       python" in result.stdout
    assert "import of torch halted" in result.stdout


def test_optional_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"json": "nothing", "no_such_package": "much"})
    here, missing = doctor.check_optional(Asked())
    assert (here.level, missing.level) == ("ok", "note")
    assert "much" in missing.what


def test_a_device_that_is_not_there() -> None:
    problem = the(doctor.check_devices(asked("extraction.device=cuda:77")), "problem")
    assert "cuda:77" in problem.what
    assert "auto or cpu" in problem.advice


def test_gpus_are_listed_with_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (2**30, 2**34))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    first, second = doctor.check_devices(Asked())
    assert first.what == "cuda:0 GPU 0, 1 GiB of 16 GiB free"
    assert second.level == "ok"


def test_little_memory_and_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(doctor, "machine_memory", lambda: 2**30)
    assert the(doctor.check_memory(Asked())).level == "note"
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    few = the(doctor.check_files(Asked()))
    assert few.level == "note"
    assert few.advice.startswith("ulimit -n ")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert the(doctor.check_files(Asked())).level == "ok"


def test_memory_of_this_machine() -> None:
    assert machine_memory() > 2**26


def test_a_store_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**6, 10**6, 1000))
    config = load_config("demo", NANO)
    problem = the(doctor.check_disk(Asked(config, tmp_path / "s")))
    assert problem.level == "problem"
    assert "but the store needs" in problem.what
    assert the(doctor.check_disk(Asked(None, tmp_path / "s"))).level == "ok"
    # Without images nobody can say how much is needed.
    assert the(doctor.check_disk(Asked(load_config("demo", ["dataset=folder"])))).level == "ok"


def test_a_folder_that_cannot_be_written_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    config = load_config("demo", NANO)
    assert the(doctor.check_disk(Asked(config, tmp_path)), "problem").advice.endswith("--out")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    away = the(doctor.check_hub(Asked()))
    assert away.level == "note"
    assert "not reachable (no network in tests): needed only for downloads" in away.what
    monkeypatch.setattr(doctor, "why_unreachable", lambda url, seconds: None)
    assert the(doctor.check_hub(Asked())).level == "ok"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in the(doctor.check_hub(Asked())).what


def test_a_silent_server_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(doctor.urllib.request, "urlopen", lambda *_, **__: time.sleep(5))
        start = time.monotonic()
        assert why_unreachable("http://localhost", 0.2) == "no answer within 0.2 s"
        assert time.monotonic() - start < 2
    assert why_unreachable("http://localhost:9", 2.0) is not None


def tiny_backbone(folder: Path, **clip: bool) -> list[str]:
    sd = save_tiny_sd(folder / "sd")
    model, weights = save_tiny_clip(folder / "clip", **clip)
    return [
        f"backbone={{sd: {{source: {sd}}}, clip: {{model: {model}, pretrained: {weights}}}, "
        "resolution: 64}"
    ]


def test_local_weights_are_found_whole_or_not(tmp_path: Path) -> None:
    overrides = tiny_backbone(tmp_path)
    found = list(doctor.check_weights(asked(*overrides)))
    assert [finding.check for finding in found] == ["activation", "weights", "weights"]
    assert {finding.level for finding in found} == {"ok"}
    truncate(tmp_path / "clip" / "tiny-vit.safetensors")
    assert "truncated" in the(doctor.check_weights(asked(*overrides)), "problem").what
    (tmp_path / "clip" / "tiny-vit.safetensors").unlink()
    gone = the(doctor.check_weights(asked(*overrides)), "problem")
    assert gone.check == "activation"
    assert "neither a file nor a tag" in gone.what


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("unet/diffusion_pytorch_model.safetensors", "missing"),
        ("vae/config.json", "missing"),
        ("tokenizer", "missing"),
        ("text_encoder", "null_prompt"),
    ],
)
def test_an_incomplete_checkpoint_is_named(tmp_path: Path, gone: str, says: str) -> None:
    overrides = tiny_backbone(tmp_path)
    path = tmp_path / "sd" / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    problem = the(doctor.check_weights(asked(*overrides)), "problem")
    assert says in problem.what
    assert problem.advice


def test_quickgelu_must_be_that_of_the_weights() -> None:
    plain = asked("backbone=sd21-clip-l336", "backbone.clip.model=ViT-L-14-336")
    checks = {finding.check: finding for finding in doctor.check_weights(plain)}
    wrong = checks["activation"]
    assert wrong.level == "problem"
    assert "QuickGELU" in wrong.what
    assert "-quickgelu" in wrong.advice


def test_an_activation_that_nothing_tells_is_no_ok(tmp_path: Path) -> None:
    overrides = tiny_backbone(tmp_path)
    model = tmp_path / "clip" / "tiny-vit.json"
    document = json.loads(model.read_text())
    del document["quick_gelu"]
    model.write_text(json.dumps(document))
    note, *others = doctor.check_weights(asked(*overrides))
    assert (note.check, note.level) == ("activation", "note")
    assert "QuickGELU" in note.what and "open_clip_config.json" in note.advice
    assert [finding.level for finding in others] == ["ok", "ok"]


def test_weights_in_the_hub_cache_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.networks import local_weights

    sd = save_tiny_sd(tmp_path / "sd")
    _, weights = save_tiny_clip(tmp_path / "clip")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(sd))
    monkeypatch.setattr(local_weights, "try_to_load_from_cache", lambda *_, **__: str(weights))
    for backbone in ("sd21-clip-l336", "dinov2"):
        found = list(doctor.check_weights(asked(f"backbone={backbone}")))
        assert {finding.level for finding in found} == {"ok"}


def test_a_configuration_needs_its_own_weights() -> None:
    levels = [f.level for f in doctor.check_weights(asked("backbone=dinov2"))]
    assert levels == ["problem"]
    levels = [f.level for f in doctor.check_weights(asked("backbone=sd21-clip-l336"))]
    assert levels == ["ok", "problem", "problem"]


def test_the_injection_file(tmp_path: Path) -> None:
    path = tmp_path / "gone.safetensors"
    assert the(doctor.check_injection(asked(f"extraction.injection={path}"))).level == "problem"
    assert not list(doctor.check_injection(asked()))


def test_the_dataset(tmp_path: Path) -> None:
    write_images(tmp_path / "sketch" / "cat", 3)
    write_images(tmp_path / "photo" / "cat", 2)
    (tmp_path / "notes.txt").write_text("mine")
    found = the(doctor.check_dataset(asked("dataset=folder", f"dataset.root={tmp_path}")))
    assert found.level == "ok"
    assert "5 images, 3 sketches, 2 photos, 1 categories, 1 other files left out" in found.what
    gone = the(doctor.check_dataset(asked("dataset=sketchy", f"dataset.root={tmp_path}/gone")))
    assert gone.level == "problem"
    assert "does not exist" in gone.what


def test_a_protocol_that_the_dataset_cannot_serve(tmp_path: Path) -> None:
    for domain in ("sketch", "photo"):
        for category in ("cat", "dog", "bat"):
            write_images(tmp_path / domain / category, 4)
    root = f"dataset.root={tmp_path}"
    paper = "paper/sketchy-retrieval"
    part = list(check_protocol(asked(root, preset=paper)))
    assert part[0].level == "ok"  # `bat` is one of the unseen
    assert any("only 1 of 21 unseen categories" in finding.what for finding in part)
    assert any("published numbers cannot stand beside" in finding.what for finding in part)
    shutil.rmtree(tmp_path / "photo" / "bat")
    none = the(check_protocol(asked(root, preset=paper)))
    assert none.level == "problem"
    assert "none of its 21 unseen categories" in none.what
    unknown = the(check_protocol(asked(root, "train.protocol=sketchy-1-1", preset=paper)))
    assert "no protocol" in unknown.what


def test_a_protocol_without_anything_to_train_on() -> None:
    only_test = asked("dataset.size=40", "task=correspondence", "train.protocol=psc6k-official")
    labels = only_test.dataset.annotations
    pairs = [pair for pair in labels.pairs if pair.split == "test"]
    vars(only_test.dataset)["annotations"] = type(labels)(labels.labels, pairs)
    problem = the(check_protocol(only_test))
    assert problem.level == "problem"
    assert "no annotated training pairs" in problem.what


def test_without_a_task_there_is_no_protocol_to_check() -> None:
    assert not list(check_protocol(asked()))
    assert not list(check_protocol(Asked()))
