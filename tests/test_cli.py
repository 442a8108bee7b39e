"""`deft`: the help of every command, every error with its text, and each command once on small inputs."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import typer
import yaml

from deft_llm import cli
from deft_llm.cli import main
from deft_llm.exit_codes import BROKE_OFF, DONE, INTERRUPTED, MEANINGS, REFUSED
from deft_llm.hub_datasets.unimer.rows import features
from deft_llm.processing import DeftVideoProcessor
from deft_llm.processing.motion_evidence import parse_motion
from tests.evaluation.made_up_rows import make_row
from tests.processes import InThisProcess, output_of

COMMANDS = [
    name.split()
    for name in (
        *("explain", "measure", "spot", "watch", "doctor", "train", "evaluate", "card", "push"),
        *("data", "data build", "data synthesize", "data inspect", "data push"),
        *("demo", "demo clip", "demo explain"),
    )
]


def run(*words):
    """In a process of its own: (exit code, stdout, stderr)."""
    done = subprocess.run(
        [sys.executable, "-m", "deft_llm.cli", *map(str, words)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def data(dataset, tmp_path_factory):
    """A dataset folder as a build leaves it: clips of all people but one to train on, and of the last one, as far as
    they show an emotion that is trained, to test on."""
    place = tmp_path_factory.mktemp("uni-mer")
    *trained, last = sorted(set(dataset["subject"]))
    (place / "data").mkdir()
    train = dataset.filter(lambda subject: subject in trained, input_columns="subject")
    known = {row["emotion"] for row in train if row["conversations"]}
    test = dataset.filter(
        lambda subject, emotion: subject == last and emotion in known, input_columns=["subject", "emotion"]
    )
    for split, rows in (("train", train), ("test", test)):
        rows.to_parquet(place / "data" / f"{split}-0.parquet")
    return place


# --- Help -----------------------------------------------------------------------------------------------------------


def test_every_command_is_listed_and_known():
    def names(app, above=()):
        command = typer.main.get_command(app) if isinstance(app, typer.Typer) else app
        for name, inner in command.commands.items():
            yield [*above, name]
            if hasattr(inner, "commands"):
                yield from names(inner, (*above, name))

    assert sorted(names(cli.app)) == sorted(COMMANDS)


def test_help_lists_commands_and_exit_codes_and_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from deft_llm.cli import main\n"
        f"for words in [[], *{COMMANDS!r}]:\n"
        "    print('==', *words)\n"
        "    assert main([*words, '--help']) == 0, words\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'cv2', 'numpy', 'trl', 'pydantic'} & set(sys.modules)))"
    )
    told = output_of([sys.executable, "-c", code])
    assert told.splitlines()[-1] == "[]"
    first, *others = re.split(r"^==.*\n", told, flags=re.MULTILINE)[1:]
    for name in ("explain", "measure", "spot", "watch", "doctor", "data", "train", "evaluate", "card", "push", "demo"):
        assert re.search(rf"^ *{name} ", first, re.MULTILINE)
    # What starts a line like a command is one: scripts read the list.
    assert set(re.findall(r"^ *([a-z][a-z-]+) ", first, re.MULTILINE)) == {words[0] for words in COMMANDS}
    for number, meaning in MEANINGS.items():
        assert f"{number}  {meaning}" in first
    assert len(others) == len(COMMANDS)
    assert all("--output_" not in text for text in others)


def test_without_a_word_the_help_is_shown(capsys):
    assert main([]) == DONE
    assert "Exit codes:" in capsys.readouterr().out


# --- Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("explan clip.mp4", "No such command 'explan'. Did you mean 'explain'? See `deft --help`."),
        ("explain --model m", "Missing argument 'CLIP...'. See `deft explain --help`."),
        ("explain clip.mp4 --revision v1", "--revision needs --model."),
        ("explain nowhere.mp4 --model m", "nowhere.mp4: no such video or folder of frames."),
        ("explain clip.mp4 --model m --chat --json", "--chat cannot be combined with --json or --question."),
        ("explain {clip} --model nowhere --chat", "--model nowhere: the model cannot be read"),
        ("explain {clip} --model nowhere", "--model nowhere: the model cannot be read"),
        ("explain {clip} --model {model} --face-source haar", '`face_source` must be "cropped", "canonical"'),
        ("explain {clip} --model {model} --convention samm", "`convention` is 'samm'; the model was trained with"),
        ("measure nowhere.mp4", "nowhere.mp4: no such video or folder of frames."),
        ("measure {broken}", "broken.mp4: "),
        ("measure {clip} --key-frames 3 9 300", "300"),
        ("measure {clip} --al", "No such option"),
        ("measure {clip} --start 1", "--start needs --out."),
        ("measure {clip} --format parquet", "--format needs --out."),
        ("measure {clip} --out o --json", "--out cannot be combined with --json, --all or --key-frames."),
        ("measure nowhere.mp4 --out o", "nowhere.mp4: no such video or folder of frames."),
        ("measure {clip} --out o --face-source haar", '`face_source` must be "cropped", "canonical"'),
        ("measure {clip} --out {broken}", "broken.mp4: is a file; pass a folder as --out."),
        ("spot {clip} --json --csv", "Choose one of --json and --csv."),
        ("spot {clip} --json --format eaf", "Choose one of --json, --csv and --format."),
        ("spot {clip} --format eaf", "--format eaf needs --out FILE.eaf."),
        ("spot {clip} {clip} --picture p.png", "--picture is about one video, got 2."),
        ("spot {clip} --tier a", "--tier needs --against."),
        ("spot {clip} --out intervals.txt", "the suffix .txt stands for no format; pass --format, csv or json or"),
        ("spot {clip} --out {broken} --format csv", "broken.mp4 exists already and is not overwritten."),
        ("spot {clip} --against nowhere.eaf", "nowhere.eaf: no such file."),
        ("spot {clip} --against {broken}", "broken.mp4: not an ELAN file"),
        ("spot {clip} --longest 60", "longest must lie in 0.1–5 seconds, got 60.0."),
        ("spot {frames}", "does not state a frame rate; pass --fps (frames per second)."),
        ("watch", "Missing argument 'SOURCE'. See `deft watch --help`."),
        (
            "watch nowhere.mp4",
            "nowhere.mp4: no such video, folder of frames or camera. Cameras have numbers, such",
        ),
        ("watch {broken}", "broken.mp4: not a video"),
        ("watch {frames}", "does not state a frame rate; pass --fps (frames per second)."),
        ("watch {frames} --fps 5", "5 frames per second. A face moves too far from one frame to the next"),
        ("watch {clip} --face-source haar", '`face_source` must be "cropped", "canonical"'),
        ("watch {clip} --face-source yunet:nowhere.onnx", "nowhere.onnx: no such YuNet model file."),
        ("watch 999", "Camera 999 cannot be opened. Is it connected, and free?"),
        ("train --config nowhere.yaml --dataset d --output-dir o", "There is no recipe nowhere.yaml."),
        ("train --config tiny.yaml --dataset d --output-dir o --mirorr 1", "The nearest is 'mirror'."),
        ("evaluate", "Missing option '--output-dir'."),
        ("evaluate --output-dir o --dataset d", "nothing to evaluate: give --model, or --baselines, or both."),
        ("evaluate --output-dir o --model m", "--dataset is missing."),
        ("evaluate --output-dir o --questions q", "--questions needs --videos."),
        (
            "evaluate --output-dir o --protocol holdout",
            "'holdout' is not one of 'loso', 'cde', 'lodo', 'fixed', 'zero-shot',",
        ),
        (
            "evaluate --output-dir o --dataset nowhere --baselines svm",
            "nowhere is not a dataset folder, and not a readable Hub",
        ),
        ("evaluate --output-dir o --dataset d --baselines forest", "Unknown baseline 'forest'. Known: majority"),
        ("card {empty}", "has no config.json; pass a folder that `deft train` has written."),
        ("push {empty} org/x", "is not complete: "),
        ("push nowhere org/x", "nowhere: no such folder. Pass a folder that `deft train` has written."),
        ("push {empty} org/x --private --gated", "Choose one of --private and --gated."),
        ("data", "Missing command. See `deft data --help`."),
        ("data build --source samm={empty} --output-dir o", "--accept-licence samm"),
        ("data synthesize --output-dir {empty}/new --preset hard", "Unknown preset 'hard'. Known: easy"),
        ("data inspect {empty}", "has no data/*.parquet; pass a folder"),
        (
            "data push {empty} org/x",
            "not a dataset folder; pass one that `deft data build` or `deft data synthesize` has written.",
        ),
        ("demo explain nowhere.mp4 --model m --picture p.png", "nowhere.mp4: no such video."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words, message, brow_video, folder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "frames"):
        (tmp_path / name).mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    from PIL import Image

    for number in range(12):
        Image.new("RGB", (64, 64)).save(tmp_path / "frames" / f"{number}.png")
    places = {
        "clip": brow_video,
        "model": folder,
        "empty": tmp_path / "empty",
        "frames": tmp_path / "frames",
        "broken": tmp_path / "broken.mp4",
    }
    assert main([word.format(**places) for word in words.split()]) == REFUSED
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    (told,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.mp4", "empty", "frames"]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("no clip"), REFUSED, "error: no clip\n"),
        (FileNotFoundError("no file"), REFUSED, "error: no file\n"),
        (FileExistsError("a file"), REFUSED, "error: a file\n"),
        (PermissionError("no entry"), REFUSED, "error: no entry\n"),
        (TypeError("no argument 'x'"), REFUSED, "error: no argument 'x'\n"),
        (
            ModuleNotFoundError("No module named 'datasets'", name="datasets"),
            REFUSED,
            "error: No module named 'datasets'. Run `pip install 'deft-llm[data]'`, which installs datasets.\n",
        ),
        (
            ModuleNotFoundError("No module named 'skimage'", name="skimage.data"),
            REFUSED,
            "error: No module named 'skimage'. Run `pip install 'deft-llm[demo]'`, which installs skimage.\n",
        ),
        (
            ImportError("Drawing needs: pip install matplotlib"),
            REFUSED,
            "error: Drawing needs: pip install matplotlib\n",
        ),
        (OSError("the disk is full"), BROKE_OFF, "error: the disk is full\n"),
        (RuntimeError("fold 3 failed"), BROKE_OFF, "error: fold 3 failed\n"),
        (KeyboardInterrupt(), INTERRUPTED, "error: interrupted; run the same command again to resume it.\n"),
    ],
)
def test_expected_errors_have_their_codes(error, code, message, monkeypatch, capsys, tmp_path):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("deft_llm.sharing.card.fill_card", fails)
    assert main(["card", str(tmp_path)]) == code
    assert capsys.readouterr().err == message


def test_a_licence_that_forbids_sharing(card_folder, tmp_path, capsys):
    folder = shutil.copytree(card_folder, tmp_path / "deft")
    told = json.loads((folder / "training_run.json").read_text(encoding="utf-8"))
    told["sources"] = {"mylab": {"title": "My laboratory", "kind": "own", "terms": "Ask.", "clips": 1, "subjects": 1}}
    (folder / "training_run.json").write_text(json.dumps(told), encoding="utf-8")
    assert main(["push", str(folder), "org/x"]) == REFUSED
    error = capsys.readouterr().err
    assert "My laboratory: Ask." in error
    assert "--i-may-share REASON" in error


def test_what_breaks_during_training_is_told_in_full(monkeypatch, capsys):
    def breaks(words):
        raise ValueError("shapes do not match")

    monkeypatch.setattr("deft_llm.training.run.main", breaks)
    assert main(["train", "--output_dir", "x"]) == BROKE_OFF
    assert "Traceback" in capsys.readouterr().err


def test_a_module_that_is_missing_is_named_with_its_extra():
    for module, extra in (("datasets.config", "data"), ("sklearn", "train"), ("pympi", "eaf"), ("gradio", "space")):
        told = cli._with_extra(ImportError(f"No module named {module!r}.", name=module))
        assert told.startswith(f"No module named {module!r}. Run `pip install 'deft-llm[{extra}]'`, which installs ")
    assert cli._with_extra(ImportError("No module named 'odd'", name="odd")) == "No module named 'odd'"


# --- Words ----------------------------------------------------------------------------------------------------------


def test_underscores_and_several_values_are_understood():
    words = "--output_dir a_b --max_new_tokens=4_0 -x_y"
    assert cli._dashed(words.split()) == "--output-dir a_b --max-new-tokens=4_0 -x_y".split()
    several = "build --source a=A b=B --accept-licence a b --seed 1"
    once_each = "build --source a=A --source b=B --accept-licence a --accept-licence b --seed 1"
    assert cli._repeated(several.split()) == once_each.split()


# --- Each command, once ---------------------------------------------------------------------------------------------


def test_explain(brow_video, still_video, folder, capsys):
    options = ["--model", str(folder), "--max_new_tokens", "4"]
    assert main(["explain", str(brow_video), str(still_video), *options]) == DONE
    told = capsys.readouterr().out
    assert told.index(str(brow_video)) < told.index(str(still_video))
    assert main(["explain", str(brow_video), *options, "--json"]) == DONE
    (item,) = json.loads(capsys.readouterr().out)
    assert set(item) == {"clip", "report", "generated_text", "frames_indices"}
    assert set(item["report"]) > {"emotion", "scores", "action_units"}


def test_a_chat_answers_what_is_piped_in(brow_video, folder, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("Is AU12 there?\n"))
    assert main(["explain", str(brow_video), "--model", str(folder), "--chat"]) == DONE
    assert capsys.readouterr().out.endswith("\n\nNo, AU12 (lip corner puller) is not visible in the motion.\n")


def test_explain_says_why_a_clip_cannot_be_measured(brow_video, folder, capsys, monkeypatch):
    preprocess = DeftVideoProcessor.preprocess

    def marked(self, videos, **kwargs):
        features = preprocess(self, videos, **kwargs)
        features["not_measurable"] = ["The face leaves the picture."]
        return features

    monkeypatch.setattr(DeftVideoProcessor, "preprocess", marked)
    options = ["explain", str(brow_video), "--model", str(folder)]
    assert main(options) == DONE
    assert capsys.readouterr().out.strip() == "Class      not measurable\nReason     The face leaves the picture."
    assert main([*options, "--json"]) == DONE
    (item,) = json.loads(capsys.readouterr().out)
    assert (item["report"]["status"], item["report"]["evidence"]) == ("not_measurable", [])


def test_measure(brow_video, capsys):
    assert main(["measure", str(brow_video)]) == DONE
    *sentences, limits = capsys.readouterr().out.strip().splitlines()
    motions = parse_motion("\n".join(sentences))
    assert motions
    assert "seen with 90 % probability" in limits
    assert main(["measure", str(brow_video), "--json"]) == DONE
    (item,) = json.loads(capsys.readouterr().out)
    assert [entry["region"] for entry in item["motion"]] == [motion.region for motion in motions]
    assert all(f"{region} {limit:.2f}" in limits for region, limit in item["detection_limits"].items())


def test_measure_says_why_a_clip_cannot_be_measured(tiny_video, capsys):
    assert main(["measure", str(tiny_video)]) == DONE
    told = capsys.readouterr().out
    assert told.startswith("The clip cannot be measured: the face is too small")
    assert len(told.splitlines()) == 1
    assert main(["measure", str(tiny_video), "--json"]) == DONE
    (item,) = json.loads(capsys.readouterr().out)
    assert set(item) == {"clip", "status", "reason"}
    assert item["status"] == "not_measurable"


def test_explain_of_a_face_that_is_too_small(tiny_video, folder, capsys):
    assert main(["explain", str(tiny_video), "--model", str(folder)]) == DONE
    first, second = capsys.readouterr().out.splitlines()
    assert first == "Class      not measurable"
    assert second.startswith("Reason     the face is too small")


def test_spot(spotted_video, capsys):
    assert main(["spot", str(spotted_video), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"intervals", "not_measurable"}
    intervals = found["intervals"]
    assert {"onset", "apex", "offset", "kind"} <= set(intervals[0])
    assert found["not_measurable"] == []
    assert main(["spot", str(spotted_video), "--csv"]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(intervals)
    assert main(["spot", str(spotted_video)]) == DONE
    assert len(capsys.readouterr().out.splitlines()) == len(intervals)


def test_spot_lists_what_cannot_be_measured(tiny_video, capsys):
    assert main(["spot", str(tiny_video)]) == DONE
    nothing, stretch = capsys.readouterr().out.splitlines()
    assert nothing == "No expression, blink or speech was found."
    assert stretch.startswith("0.00–0.19 s cannot be measured: the face is too small")
    assert main(["spot", str(tiny_video), "--json"]) == DONE
    (row,) = json.loads(capsys.readouterr().out)["not_measurable"]
    assert (row["start"], row["stop"]) == (0, 38)
    assert main(["spot", str(tiny_video), "--csv"]) == DONE
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 1
    assert "cannot be measured" in told.err


def test_data(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("deft_llm.hub_datasets.synthetic.dataset.ProcessPoolExecutor", InThisProcess)
    out = tmp_path / "rendered"
    options = ["--clips", "2", "--clips-per-face", "1", "--test-share", "0.5", "--workers", "1"]
    assert main(["data", "synthesize", "--output-dir", str(out), *options]) == DONE
    assert main(["data", "inspect", str(out)]) == DONE
    assert "Emotions" in capsys.readouterr().out


def test_train_and_evaluate_and_card(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "deft"
    options = (
        "--config tiny.yaml --max-steps 1 --warmup_steps 0 --per-device-train-batch-size 2 --use-cpu true "
        "--preprocessing-workers 1 --disable-tqdm true"
    ).split()
    words = ["train", *options, "--dataset", str(data / "data"), "--output-dir", str(out)]
    assert main(words) == DONE
    assert "Model folder written to" in capsys.readouterr().out
    run_told = json.loads((out / "training_run.json").read_text(encoding="utf-8"))
    assert run_told["command"].startswith("deft train --config tiny.yaml")
    assert main(words) == REFUSED  # the same again would overwrite it
    assert "contains a finished model" in capsys.readouterr().err

    evaluation = tmp_path / "evaluation"
    words = ["evaluate", "--dataset", str(data / "data"), "--model", str(out), "--output_dir", str(evaluation)]
    assert main([*words, *"--target emotion --max-new-tokens 4 --resamples 10".split()]) == DONE
    assert "Card filled" in capsys.readouterr().out
    assert main(["card", str(out), "--report", str(evaluation / "report.json"), "--dataset-id", "org/x"]) == DONE
    front = yaml.safe_load((out / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "org/x"


def test_baselines_need_no_model(tmp_path, capsys):
    from datasets import Dataset

    schema = features(DeftVideoProcessor(num_frames=2, flow_size=8))
    rows = [
        {**make_row("samm", s, c, ("negative", "positive")[c % 2]), "action_units": []}
        for s in (1, 2)
        for c in range(4)
    ]
    Dataset.from_list(rows, features=schema).to_parquet(tmp_path / "made-up" / "train-00000-of-00001.parquet")
    words = ["evaluate", "--dataset", str(tmp_path / "made-up"), "--protocol", "loso", "--baselines", "majority"]
    assert main([*words, "--output-dir", str(tmp_path / "out"), "--resamples", "10"]) == DONE
    assert json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["folds"] == 2


def test_a_process_ends_with_the_code():
    code, told, error = run("card", "nowhere")
    assert (code, told) == (REFUSED, "")
    assert error.startswith("error: nowhere has no config.json")
