"""The command line, through its `main` and as a process."""

from __future__ import annotations

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from worldsim import __version__, cli


def run_process(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a fresh interpreter, after the statement ``before``."""
    code = f"import sys\n{before}\nfrom worldsim.cli import main\nsys.exit(main())"
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must end as a user's mistake; return its one paragraph."""
    assert cli.main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    paragraph = printed.err.splitlines()[-1]  # a progress bar may stand before it
    assert paragraph.startswith("worldsim: ")
    assert "Likely fix: " in paragraph
    return paragraph


def test_overview_teaches() -> None:
    """`worldsim --help` names every command and shows how to begin, without importing torch or MuJoCo."""
    loaded = "import atexit; atexit.register(lambda: print(sorted({'torch', 'mujoco'} & set(sys.modules))))"
    done = run_process("--help", before=loaded)
    assert done.returncode == 0
    assert all(f"\n    {name} " in done.stdout for name in cli.COMMANDS)
    assert "worldsim record worldsim/Arena-v0" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_module_and_script_are_the_same() -> None:
    """`python -m worldsim` and `worldsim` run the same program."""
    script = Path(sys.executable).with_name("worldsim")
    for command in ([sys.executable, "-m", "worldsim"], [str(script)]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"worldsim {__version__}\n"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_parameter_is_a_flag(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The help of a command shows each parameter of the function behind it with its meaning, and examples."""
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    command = cli.COMMANDS[name]
    parameters = set(inspect.signature(cli._function(command.target)).parameters) - set(command.not_flags)
    assert all(f"{parameter} " in text.replace("]", " ") for parameter in parameters)
    assert command.examples in text


def test_examples_are_commands_that_parse() -> None:
    """Every example in a help text is accepted by the very parser that shows it."""
    for name, command in cli.COMMANDS.items():
        function = cli._function(command.target)
        for line in command.examples.splitlines():
            words = line.partition("#")[0].split()
            assert words[:2] == ["worldsim", name]
            cli._parse(words[1:], name, function)


def test_mistakes_are_explained(
    stripe_recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unknown commands and flags, missing and malformed values: one paragraph that offers what was likely meant."""
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'record'" in refused(capsys, "recrod", "--out", "x")
    assert "did you mean --episodes" in refused(capsys, "record", "world", "--episode", "3", "--out", "x")
    assert "--episodes" in refused(capsys, "record", "world", "--out", "x")
    assert "ENV_ID" in refused(capsys, "record", "--episodes", "3", "--out", "x")
    assert "many" in refused(capsys, "record", "world", "--episodes", "many", "--out", "x")
    assert "unrecognized" in refused(capsys, "record", "world", "--epis", "3", "--out", "x")
    assert "nowhere" in refused(capsys, "train", "nowhere", "--out", "x", "--steps", "1")
    assert "no-such-checkpoint" in refused(capsys, "info", "no-such-checkpoint")
    train = ("train", str(stripe_recording), "--out", "x", "--steps", "1")
    assert "did you mean 'nano'" in refused(capsys, *train, "--preset", "nanno")
    assert "clip_shares" in refused(capsys, *train, "--config.clip_frames", "[4]")
    assert not Path("x").exists()


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    """With --debug the same mistake comes with its traceback and the same exit code."""
    assert cli.main(["info", "no-such-checkpoint", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_missing_extra_is_named(stripe_recording: Path, tmp_path: Path) -> None:
    """Without the packages of an extra, the commands that need them say how to install it."""
    train = ("train", str(stripe_recording), "--preset", "nano", "--steps", "1", "--out", str(tmp_path / "run"))
    for module, extra, words in (("accelerate", "train", train), ("jinja2", "report", ("demo",))):
        done = run_process(*words, before=f"sys.modules['{module}'] = None")
        assert done.returncode == 2, done.stderr
        assert f"pip install 'worldsim[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_train_then_look(stripe_recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Training from the command line ends in a checkpoint, says how to step it, and `worldsim info` describes it."""
    run = str(tmp_path / "run")
    settings = ["--config.clip_frames=[4]", "--config.clip_shares=[1.0]", "--config.frames_per_step=8"]
    assert cli.main(["train", str(stripe_recording), "--preset=nano", "--steps=2", "--out", run, *settings]) == 0
    assert "gym.make(" in capsys.readouterr().out
    assert cli.main(["info", run]) == 0
    printed = capsys.readouterr().out
    assert "env_id: worldsim/Stripe-v0" in printed
    assert "\nparameters: " in printed


def test_refused_by_the_system(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output folder that cannot be made is a user's mistake, not a crash."""
    (tmp_path / "file").write_text("not a folder")
    out = str(tmp_path / "file" / "below")
    refused(capsys, "record", "worldsim/Arena-v0", "--episodes", "1", "--workers", "1", "--out", out)


def test_record_then_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Recording from the command line writes results.json, says what to type next, and dashes in flags are accepted."""
    out = str(tmp_path / "data")
    command = ["record", "worldsim/Arena-v0", "--episodes=2", "--steps=14", "--env-kwargs={}", "--workers=1"]
    assert cli.main([*command, "--out", out]) == 0
    assert f"worldsim train {out}" in capsys.readouterr().out
    assert json.loads((tmp_path / "data" / "results.json").read_text())["episodes"] == 2
    assert cli.main([*command, "--out", out]) == 0
    assert "nothing was missing" in capsys.readouterr().out


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Let interrupts through to new processes: a suite started in the background (``make test &``) is told to ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interrupts")
def test_interrupt_is_polite(tmp_path: Path) -> None:
    """Ctrl-C while recording ends with exit code 130 and one sentence on how to go on; no traceback."""
    words = ["record", "worldsim/Arena-v0", "--episodes", "5000", "--steps", "12", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "worldsim", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    shard = tmp_path / "shards" / "00000.hdf5"
    deadline = time.monotonic() + 60
    while not shard.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Run the same command again" in errors
    assert "Traceback" not in errors
