"""Digests of what a refactor must not change, and the comparison of two commits.

    python apps/trainer/benchmarks/unchanged.py --json before.json
    python apps/trainer/benchmarks/unchanged.py --json after.json --against before.json

Run it with the Python of the commit's environment. It uses the names that the packages export,
the command line, and the files that are written; nothing else. Exit status 1 if anything differs.
Compare files of one machine: other processors round in other ways.
"""

import argparse
import contextlib
import hashlib
import inspect
import json
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ |= ONE_THREAD | {"CUDA_VISIBLE_DEVICES": ""}  # before NumPy and torch are loaded

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[3]
BACKBONE = "test_convnext"
WRONG = [  # without servers: exit status 2 is wrong usage, 1 is cannot be done
    *("nonsense", "train --epochs 0", "train --no-such-flag 1", "train --receivers A A", "train"),
    *("ingest", "ingest simulated --sessions 1", "evaluate no.onnx", "compare a.onnx b.onnx"),
    *("cache build --workers 0", "stack status", "models show 1", "models list", "worker"),
]


def sha(data):
    """SHA-256 of bytes, of an array or tensor with type and shape, or of what JSON can hold."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().numpy()
    if isinstance(data, np.ndarray):
        data = f"{data.dtype} {data.shape}".encode() + np.ascontiguousarray(data).tobytes()
    if not isinstance(data, bytes):
        data = json.dumps(data, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def prefixed(prefix, figures):
    """The same figures under longer names."""
    return {f"{prefix}/{name}": value for name, value in figures.items()}


# ---- what the packages export


def signatures(package):
    """Public names and their parameters with defaults, without annotations."""
    found = dict.fromkeys(package.__all__, "")
    for name in found:
        with contextlib.suppress(TypeError, ValueError):  # constants and exceptions have none
            given = inspect.signature(getattr(package, name)).parameters.values()
            plain = [str(each.replace(annotation=inspect.Parameter.empty)) for each in given]
            found[name] = ", ".join(plain)
    return found


def signal(rng, rate_hz, n_samples, offset_hz=1000.0):
    """A tone in noise, complex64."""
    noise = rng.standard_normal((2, n_samples))
    tone = np.exp(2j * np.pi * offset_hz / rate_hz * np.arange(n_samples))
    return (0.3 * tone + 0.01 * (noise[0] + 1j * noise[1])).astype(np.complex64)


def features(_work, _shared):
    """Features of generated recordings."""
    import heimdall_features as hf

    rng, found = np.random.default_rng(7), {}
    for rate_hz in (12_000.0, 12_001.145, 48_000.0, 192_000.0):
        iq = signal(rng, rate_hz, 30_000)
        mel = found[f"mel/{rate_hz}"] = hf.iq_to_mel_spectrogram(iq, rate_hz)
        found[f"mel/{rate_hz}/32"] = hf.iq_to_mel_spectrogram(iq, rate_hz, n_frames=32)
        found[f"mfcc/{rate_hz}"] = hf.compute_mfcc(mel)
    small = {"n_mels": 40, "n_fft": 512, "hop_length": 128}
    found["mel/real"] = hf.iq_to_mel_spectrogram(iq.real, 48e3, spectrum="one-sided", **small)
    found["mel/envelope"] = hf.iq_to_mel_spectrogram(iq, 48e3, spectrum="envelope", **small)
    blocks = hf.Blocks(iter(np.split(iq, [1000, 9999])), iq.size)
    found["mel/blocks"] = hf.iq_to_mel_spectrogram(blocks, 192e3)
    config = hf.FeatureConfig(receivers=("A", "B", "C"))
    extract, recordings = hf.FeatureExtractor(config), {"C": (iq, 192e3)}
    recordings["A"] = signal(rng, 12e3, 6000), 12e3
    one = found["extractor/B missing"] = extract(recordings)
    found["extractor/threads"] = hf.FeatureExtractor(config, n_threads=3)(recordings)
    every = found["extractor/all"] = extract(recordings | {"B": (iq[:20_000], 48_000.0)})
    stats = hf.NormalizationStats.of([one, every])
    found |= {"stats/mean": stats.mean, "stats/std": stats.std}
    found["normalize"] = hf.normalize_features(one, stats)
    found["augment"] = hf.augment_features(one, np.random.default_rng(3))
    strong = hf.Augmentation(calibration_db=2.0, n_time_masks=3, drop_probability=0.5)
    found["augment/strong"] = hf.augment_features(every, np.random.default_rng(4), strong)
    wide, clocked = rng.standard_normal((2, 60_000)), {}
    for name, first, rate_hz, start_s in (
        ("A", 2000, 48_000.0, 10.0),
        ("B", 1995, 48_000.2, 10.0),
        ("C", 1043, 47_999.9, 9.98),
        ("D", 2000, 48_000.0, 10.0),
    ):
        heard = (wide[0] + 1j * wide[1])[first : first + 40_000] / 10
        iq = (heard + signal(rng, rate_hz, 40_000, 3000.0) / 30).astype(np.complex64)
        clocked[name] = hf.ClockedRecording(
            iq, rate_hz, start_s, clock_sigma_s=0.0 if name != "D" else math.inf
        )
    arrivals = hf.ArrivalConfig(receivers=("A", "B", "C", "D"), baseline_m=150e3)
    for names, weighting in (("ABCD", "phat"), ("AB", "plain"), ("A", "phat")):
        some = {name: clocked[name] for name in names}
        found[f"arrivals/{names}"] = hf.ArrivalExtractor(arrivals)(some)
        pairs = hf.CorrelationConfig(
            receivers=arrivals.receivers, baseline_m=150e3, weighting=weighting
        )
        found[f"correlation/{names}"] = hf.cross_correlation_features(some, pairs)
    found = {name: sha(array) for name, array in found.items()}
    for name, settings in (("features", config), ("arrivals", arrivals)):
        found[f"config/{name}"] = [settings.fingerprint, settings.to_json()]
    metadata = sorted(extract.metadata()), sorted(hf.ArrivalExtractor(arrivals).metadata())
    return (
        found
        | {"metadata": metadata, "stats/json": sha(stats.to_json())}
        | {"signatures": signatures(hf), "columns": hf.ARRIVAL_COLUMNS}
    )


def models(_work, _shared):
    """Networks from a seed, geometry, metrics and simple baselines."""
    import heimdall_models as hm
    import torch

    rng = np.random.default_rng(8)
    truth = np.array([45.0, 8.0]) + rng.normal(0, 0.5, (40, 2))
    guess, sigma_m = truth + rng.normal(0, 0.05, (40, 2)), rng.uniform(1e3, 9e3, (40, 2))
    region = hm.Region.around(truth[:, 0], truth[:, 1])
    units, x = region.to_plane(truth), torch.from_numpy(mel_input(3))
    found = {
        "signatures": signatures(hm),
        "config": [hm.LocalizationConfig().to_json(), json.dumps(asdict(hm.TimingConfig()))],
        "region": [region.to_json(), sha(units), sha(region.to_degrees(units))],
        "metrics": hm.localization_metrics(guess, sigma_m, truth, 0.3),
        "error_m": sha(hm.error_m(guess, truth)),
    }
    members, like = [], np.ones((3, 128, 1))
    with torch.no_grad():
        for seed in (0, 1):
            torch.manual_seed(seed)
            net = hm.LocalizationNet(3, BACKBONE, tilted=True)
            found[f"net/{seed}"] = {name: sha(value) for name, value in net.state_dict().items()}
            standardize = hm.Standardize(-100 * like, 17 * like)
            members.append(hm.ServingNet(standardize, net, region).eval())
            found[f"net/{seed}/answer"] = [sha(each) for each in members[-1](x)]
        found["ensemble/answer"] = [sha(each) for each in hm.EnsembleNet(members).eval()(x)]
    return found


# ---- the command line


def environment(state, more=None):
    """This process's environment, with Heimdall's variables as given and no others of its kind."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HEIMDALL_", "MLFLOW_"))}
    return kept | {"COLUMNS": "300", "HEIMDALL_STATE_DIR": str(state)} | (more or {})


def status_and_output(words, env, work):
    """Exit status, standard output and standard error of one command run in the folder `work`."""
    program = Path(sys.executable).with_name("heimdall")
    line = [program, *shlex.split(words)]
    ran = subprocess.run(line, env=env, cwd=work, capture_output=True, text=True)
    return ran.returncode, ran.stdout, ran.stderr


def heimdall(words, env, work):
    """Run a command that must not fail; return its standard output."""
    status, said, error = status_and_output(words, env, work)
    if status:
        raise RuntimeError(f"heimdall {words}: exit status {status}: {error[-2000:]}")
    return said


def command_line(work, _shared):
    """Commands and names of flags from the help, and exit statuses of wrong usage."""
    env, found, asked = environment(work / "nowhere"), {}, [""]
    for command in asked:  # which grows
        said = heimdall(f"{command} --help", env, work)
        # Of each line that describes a command or flag, what is before its type or the colon.
        lines = re.findall(r"^  ((?:-*[a-z][\w-]*(?:, )?)+)(?: [A-Z. ]+)?: ", said, re.MULTILINE)
        names = sorted({name for line in lines for name in line.split(", ")})
        found[f"help of {command or 'heimdall'}"] = names
        asked += [f"{command} {name}".strip() for name in names if not name.startswith("-")]
    statuses = {f"status of {words}": status_and_output(words, env, work)[0] for words in WRONG}
    return found | statuses


@contextlib.contextmanager
def stack(work, name):
    """Embedded servers with a state directory of their own; gives the environment to use them."""
    state = work / name
    heimdall("stack up", environment(state), work)
    try:
        lines = shlex.split((state / "stack.env").read_text())
        yield environment(state, dict(line.split("=", 1) for line in lines))
    finally:
        heimdall("stack down", environment(state), work)


def objects(env, bucket, folder=""):
    """Keys and readers of the objects in a bucket."""
    import minio

    secure, address = env["HEIMDALL_S3_ENDPOINT_URL"].split("://")
    keys = env["HEIMDALL_S3_ACCESS_KEY"], env["HEIMDALL_S3_SECRET_KEY"]
    client = minio.Minio(address, *keys, secure=secure == "https")
    for each in client.list_objects(bucket, prefix=folder, recursive=True):
        yield each.object_name, lambda key=each.object_name: client.get_object(bucket, key).read()


def stored(env):
    """Every recording's object by key, and every row of the catalogue by id, all deterministic."""
    import psycopg

    found = {"objects": {key: sha(read()) for key, read in objects(env, "heimdall-raw-iq")}}
    with psycopg.connect(env["HEIMDALL_DATABASE_URL"], options="-c timezone=UTC") as connection:
        for table in ("websdr_stations", "known_sources", "recording_sessions", "measurements"):
            rows = connection.execute(f"SELECT id, to_jsonb(t) FROM heimdall.{table} t")
            found[table] = {str(key): sha(row) for key, row in rows}
    return found


def cached(state):
    """Names of computed features, and the tensors in them: safetensors behind eight bytes.

    Left out: tensors of bytes, which hold prose and the object store's port.
    """
    from safetensors.numpy import load

    files = {path.stem: load(path.read_bytes()[8:]) for path in state.rglob("*.features")}
    tensors = [
        {name: sha(array) for name, array in each.items() if array.dtype != np.uint8}
        for each in files.values()
    ]
    return {"keys": sorted(files), "tensors": sorted(tensors, key=sha)}


def figures_in(lines):
    """The numbers in each line of a table."""
    return [re.findall(r"-?\d+(?:[.,]\d+)*", line) for line in lines if "│" in line]


def training(work, name, flags, env):
    """A training of two epochs with seed 42: weights, metrics, split, model file, MLflow run."""
    words = f"train --epochs 2 --seed 42 --backbone {BACKBONE} {flags} --summary {name}.json"
    said = heimdall(words, env, work)
    summary = json.loads((work / f"{name}.json").read_text())
    best, report = Path(summary["checkpoint"]), Path(summary["report"])
    files = (str(p.relative_to(best.parent)) for p in best.parent.rglob("*") if p.is_file())
    # What `compare` reads of a report: positions, ellipses and truths of the held-out sessions.
    page = re.search(r'json" id="evaluation">(.*?)</script>', report.read_text("utf-8"), re.S)
    beside = (path.read_text("utf-8") for path in report.parent.rglob("*evaluation.json"))
    found = {
        "summary/keys": sorted(summary),
        "summary/metrics": summary["metrics"],
        "summary/excluded": [each["id"] for each in summary["excluded_sessions"]],
        "table": figures_in(said.splitlines()),
        "files": sorted(path.replace(Path(summary["onnx_path"]).stem, "RUN") for path in files),
        "report": {k: sha(v) for k, v in json.loads(page[1] if page else next(beside)).items()},
        **prefixed("onnx", model_file(summary["onnx_path"])),
        **prefixed("mlflow", mlflow_run(env, summary)),
        **prefixed("delivered", delivered(env, summary)),
    }
    last = best.with_name("last.ckpt")  # the second epoch's, where the first epoch was the best
    for path in {best, last} if last.exists() else {best}:
        found |= prefixed(path.name, checkpoint(path))
    return found


def checkpoint(path):
    """Tensors by part, our records, and the keys by which parts of a run are found again.

    Left out: the run's id, which is random; what callbacks keep, which holds paths and seconds.
    """
    import torch

    contents = torch.load(path, map_location="cpu", weights_only=True)
    found = {"records": {}, "keys": [*sorted(contents), *sorted(contents.get("callbacks", ()))]}

    def walk(part, name, top):
        if isinstance(part, torch.Tensor):
            found.setdefault(top, {})[name] = sha(part)
        elif isinstance(part, dict | list | tuple):
            for key, value in part.items() if isinstance(part, dict) else enumerate(part):
                walk(value, f"{name}/{key}", top)
        elif top.startswith(("heimdall_", "lr_schedulers")) and not name.endswith("run_id"):
            found["records"][name] = part

    for top in set(contents) - {"callbacks", "loops"}:
        walk(contents[top], top, top)
    return found


def mel_input(n_receivers):
    """Three inputs of a model in dB, one without its first receiver."""
    x = np.random.default_rng(9).normal(-100, 15, (3, n_receivers, 128, 32)).astype(np.float32)
    x[1, 0] = -140.0
    return x


def arrival_input(n_receivers):
    """Three inputs of arrival times: of nobody, of the first three receivers, of all."""
    rows = np.ones((3, n_receivers, 5)) * [1.0, 0.0, 0.2, 20.0, 0.0]
    rows[:, :, 1] = np.random.default_rng(10).normal(0, 50, (3, n_receivers))
    rows[0] = rows[1, 3:] = 0.0
    return rows.astype(np.float32)


def model_file(path):
    """A model file's graph with weights, its metadata, and its answers.

    Left out of the graph: metadata, doc strings, producer; of `graph/unnamed` also the names of
    nodes and tensors. Left out of the metadata: the run's id, the time, the package's version.
    """
    import onnx
    import onnxruntime
    from heimdall_features import FeatureExtractor

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ends = [*session.get_inputs(), *session.get_outputs()]
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    extract = FeatureExtractor.from_metadata(metadata)
    names = extract.config.receivers
    feed = {"mel_spectrogram": mel_input(len(names)), "arrival_times": arrival_input(len(names))}
    iq = signal(np.random.default_rng(1), 12e3, 9000)
    feed["mel_spectrogram"][2] = extract({names[1]: (iq, 12e3)})
    feed = {end.name: feed[end.name] for end in session.get_inputs()}
    answers = session.run(None, feed)
    random = ("heimdall.run_id", "heimdall.created_at", "heimdall.features.version")
    graph, unnamed = onnx.load(path), onnx.load(path)
    bare(graph)
    bare(unnamed, names={})
    return {
        "ends": [[end.name, end.type, *map(str, end.shape)] for end in ends],
        "metadata": {k: "" if k in random else v for k, v in metadata.items()},
        "outputs": [sha(each) for each in answers],
        "outputs/values": [each.tolist() for each in answers],
        "graph": sha(graph.SerializeToString(deterministic=True)),
        "graph/unnamed": sha(unnamed.SerializeToString(deterministic=True)),
    }


def bare(message, names=None):
    """Clear what says nothing of the computation; with `names`, number names as they come."""
    for field, value in message.ListFields():
        if field.name in ("metadata_props", "doc_string", "producer_name", "producer_version"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for each in value if hasattr(value, "append") else [value]:
                bare(each, names)
        elif names is not None and message.DESCRIPTOR.name != "AttributeProto":
            if field.name == "name":
                message.name = names.setdefault(value, str(len(names)))
            elif field.name in ("input", "output"):
                value[:] = [names.setdefault(each, str(len(names))) for each in value]


def mlflow_run(env, summary):
    """Parameters, metrics with their history, tags, artifacts, split, and registered version.

    Left out: values of tags that hold the time, the run's name or the commit, and versions of our
    packages, because a new package adds a tag.
    """
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{env['HEIMDALL_STATE_DIR']}/mlflow.db")
    run, name = client.get_run(summary["run_id"]), "heimdall-localization-onnx"
    version = client.get_model_version(name, summary["model_version"])
    keys = [key for key, _ in objects(env, "heimdall-mlflow", f"{summary['run_id']}/")]
    changing = ("mlflow.runName", "git.commit", "onnx_uri", "sha256")
    tags = {**run.data.tags, **prefixed("version", version.tags)}
    return {
        "experiment": client.get_experiment(run.info.experiment_id).name,
        "status": run.info.status,
        "params": run.data.params,
        "metrics": {
            name: [
                [each.step, each.value] for each in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
        },
        "tags": {
            name: "" if name.removeprefix("version/") in changing else value
            for name, value in tags.items()
            if not name.startswith("version.heimdall-")
        },
        "aliases": sorted(client.get_registered_model(name).aliases),
        "artifacts": sorted(key.split("/", 1)[1].replace(run.info.run_name, "RUN") for key in keys),
        "run name": re.sub(r"\d{8}_\d{6}", "TIME", run.info.run_name),
        "split": {
            each.dataset.name: [each.dataset.digest, *json.loads(each.dataset.profile)["sessions"]]
            for each in run.inputs.dataset_inputs
        },
    }


def delivered(env, summary):
    """Where the model file is, and its sidecar without what differs from run to run."""
    key = summary["onnx_uri"].removeprefix("s3://heimdall-models/")
    side = dict(objects(env, "heimdall-models"))[re.sub("onnx$", "json", key)]
    sidecar, kept = json.loads(side()), ("metrics", "size")
    theirs = {k: v for k, v in sidecar["versions"].items() if not k.startswith("heimdall")}
    return {
        "uri": re.sub(r"\d{8}_\d{6}", "TIME", summary["onnx_uri"]),
        "sidecar": {k: sidecar[k] if k in kept else "" for k in sidecar} | {"versions": theirs},
    }


def levels(work, _shared):
    """Simulated NumPy recordings, a model of levels, an ensemble, and their comparison."""
    with stack(work, "levels") as env:
        heimdall("ingest simulated --sessions 60 --seed 42", env, work)
        found = prefixed("stored", stored(env))
        found |= prefixed("mel", training(work, "mel", "--features mel", env))
        found |= prefixed("ensemble", training(work, "two", "--ensemble 2 --tilted", env))
        found |= prefixed("cache", cached(work / "levels"))
        one, two = (json.loads((work / f"{name}.json").read_text()) for name in ("mel", "two"))
        words = f"compare {one['onnx_path']} {two['checkpoint']} --report compared.html"
        return found | {"compare": figures_in(heimdall(words, env, work).splitlines())}


def timing(work, shared):
    """Recordings with clocks, simulated and real, and a model that takes arrival times.

    Of seven receivers: of three, after so short a training, the exported file differs from its
    network by more than an export allows.
    """
    with stack(work, "timing") as env:
        heimdall("ingest simulated --sessions 80 --seed 42 --recording-format kiwi_wav", env, work)
        found = prefixed("stored", stored(env))
        flags = "--features mel+timing --n-receivers 7"
        found |= prefixed("mel+timing", training(work, "timed", flags, env))
        found |= prefixed("cache", cached(work / "timing"))
        recordings = sorted((shared / "kiwisdr-dcf77-2017").glob("*.wav"))
        if not recordings:
            return found | {"dcf77": f"left out, no recordings in {shared}"}
        stations = "F1JEK,45.779290,0.614638\nDF0KL,53.665337,7.282766\nHB9RYZ,47.1721,8.42683\n"
        (work / "stations.csv").write_text("name,latitude,longitude\n" + stations)
        words = shlex.join(["ingest", *map(str, recordings), "--stations", "stations.csv"])
        place = "--source DCF77 --latitude 50.0152 --longitude 9.0112 --approval approved"
        heimdall(f"{words} {place}", env, work)
        found["dcf77/stored"] = sha(stored(env))
        for kind in ("mel", "mel+timing"):
            there = env | {"HEIMDALL_STATE_DIR": str(work / f"dcf77-{kind}")}
            words = f"cache build --sources DCF77 --features {kind}"
            heimdall(f"{words} --receivers DF0KL F1JEK HB9RYZ", there, work)
            found[f"dcf77/{kind}"] = cached(work / f"dcf77-{kind}")
        return found


# ---- comparison


def difference(old, new):
    """What is not the same in two figures, in few words."""
    if isinstance(old, dict) and isinstance(new, dict):
        changed = [name for name in old if name in new and old[name] != new[name]]
        said = [f"{name}: {difference(old[name], new[name])}" for name in changed[:5]]
        said += [f"{len(changed)} of {len(old)} changed"] if len(changed) > 5 else []
        old, new = list(old), list(new)
    elif isinstance(old, list) and isinstance(new, list):
        said = []
    else:
        return f"{old!s:.70} -> {new!s:.70}"
    gone, more = ([x for x in a if x not in b] for a, b in ((old, new), (new, old)))
    said += [f"gone: {gone[:5]}"] if gone else []
    said += [f"new: {more[:5]}"] if more else []
    return "; ".join(said) or "another order"


def compare(old, new):
    """Print a line for each figure; return how many differ."""
    n_different = 0
    for name in sorted(old | new):
        if name not in old or name not in new:
            said = "only before" if name in old else "only now"
        else:
            same = old[name] == new[name]
            said = "same" if same else f"DIFFERENT: {difference(old[name], new[name])}"
        n_different += said != "same"
        print(f"{name:60s} {said}")
    print(f"{n_different} of {len(old | new)} figures differ")
    return n_different


SECTIONS = {each.__name__: each for each in (features, models, command_line, levels, timing)}


def main():
    """Compute the figures, write them, and compare them if there is something to compare with."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="where the figures go")
    parser.add_argument("--against", type=Path, help="figures of another commit")
    parser.add_argument("--keep", action="store_true", help="compare --json as it is, run nothing")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared" / "data")
    given = parser.parse_args()
    found = {}
    for name in given.only if not given.keep else ():
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="unchanged-") as work:
            figures = SECTIONS[name](Path(work), given.shared.absolute())
        found |= prefixed(name, figures)
        print(f"{name}: {len(figures)} figures in {time.monotonic() - started:.0f} s", flush=True)
    if not given.keep:
        given.json.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    new = json.loads(given.json.read_text())
    if given.against is None:
        for name, value in new.items():
            print(f"{name:60s} {value if isinstance(value, str | int | float) else sha(value)}")
        return 0
    old = json.loads(given.against.read_text())
    chosen = [{k: v for k, v in f.items() if k.split("/")[0] in given.only} for f in (old, new)]
    return min(1, compare(*chosen))


if __name__ == "__main__":
    sys.exit(main())
