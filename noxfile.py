"""Every check this repository knows. `nox` alone formats, types, and tests the built packages."""

import json
import os
import pathlib
import re
import shutil
import signal

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
# `tests` runs the same tests as `wheels`, sooner, on the sources in place: for daily work.
nox.options.sessions = ["lint", "typecheck", "docs", "wheels"]

# A command in a shell's background ignores Ctrl-C, one behind nohup a hang-up, and so do their
# children; some tests send these and others.
signal.pthread_sigmask(signal.SIG_SETMASK, ())
signal.signal(signal.SIGINT, signal.default_int_handler)
for each in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(each, signal.SIG_DFL)

# Images of containers set this; each process of a test would compile all that it imports again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

ROOT = pathlib.Path(__file__).parent
MEMBERS = {p.parent.name: p.parent for p in sorted(ROOT.glob("*/*/pyproject.toml"))}
PACKAGES = {
    nox.project.load_toml(p / "pyproject.toml")["project"]["name"]: p for p in MEMBERS.values()
}
IMPORT_NAMES = {name: name.replace("-", "_") for name in PACKAGES}

# Modules whose small faults tests must find, each with the files under `tests` that judge it.
JUDGES = {
    "heimdall-features": {
        "config": "test_config.py",
        "mel": "test_mel.py",
        "cepstrum": "test_cepstrum.py",
        "arrivals": "test_arrivals.py",
        "frames": "test_frames.py",
        "spectrum": "test_spectrogram.py test_golden.py",
        "resample": "test_resample.py",
        "signal": "test_signal.py test_bad_input.py",
        "extractor": "test_extractor.py test_bad_input.py",
        "normalization": "test_normalization.py",
    },
    "heimdall-models": {
        "losses": "test_losses.py",
        "metrics": "test_metrics.py",
        "calibration": "test_calibration.py",
        "region": "test_region.py",
    },
    "heimdall-data": {"split": "test_split.py test_session_table.py"},
    "heimdall-export": {
        "registry/registry": "test_registry.py test_deletion.py test_weights_beside.py",
        "registry/production": "test_production.py test_registry.py",
        "registry/promotion": "test_promotion.py",
        "registry/deletion": "test_deletion.py",
    },
}
MUTMUT = """[mutmut]
source_paths = src
only_mutate = src/{package}/{module}.py
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = --hypothesis-seed=0
    -p
    unshrunk
    -k
    not postgres and not http and not killed
timeout_constant = 30
timeout_multiplier = 1
process_isolation = forkserver
use_git_change_detection = false
do_not_mutate_patterns = raise [A-Z]
    ^\\s*f?"[^"]*"\\)?$
"""
"""Wording of messages is free. Draws of Hypothesis are not, so that a table can be repeated. Tests
of other backends and of killed processes take minutes for each fault."""
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""For tests: the threads of PyTorch and OpenBLAS wait for each other in a loop where there are more
of them than cores, and their numbers are too small to share."""
UNSHRUNK = """from hypothesis import Phase, settings

settings.register_profile("unshrunk", phases=[Phase.explicit, Phase.generate])
settings.load_profile("unshrunk")
"""
"""A fault is found when a test fails; which numbers show it best does not matter."""


def project(package):
    """The package's pyproject.toml as a dictionary."""
    return nox.project.load_toml(PACKAGES[package] / "pyproject.toml")


def sync(session, *arguments):
    """Bring the session's environment to what uv resolves for `arguments`, and nothing else."""
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        *arguments,
        env={"UV_PROJECT_ENVIRONMENT": session.virtualenv.location},
    )


def suites(package):
    """The test folders of a package, each with the dependency group it needs."""
    groups = project(package)["dependency-groups"]
    return {
        g: g.replace("test", "tests", 1).replace("-", "_") for g in groups if g.startswith("test")
    }


def in_processes(package, group):
    """Flags for pytest-xdist, where the group has it; a file stays with its fixtures.

    The tests of heimdall-data wait for servers more than they compute: 138 s in four, 230 s in two.
    """
    tools = nox.project.dependency_groups(project(package), group)
    side_by_side = any(tool.startswith("pytest-xdist") for tool in tools)
    number = "4" if package == "heimdall-data" else "2"
    return ("-n", number, "--dist", "loadfile") if side_by_side else ()


@nox.session
def lint(session):
    """Format, style, the direction of imports, and the files of deploy/."""
    sync(session, "--only-group=lint")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    sources = [str(path / "src") for path in PACKAGES.values()]
    session.run("lint-imports", env={"PYTHONPATH": ":".join(sources)})
    session.run("hadolint", "deploy/Dockerfile")
    compose = "vendor.compose-spec"  # the wheel has the schema
    session.run("check-jsonschema", f"--builtin-schema={compose}", "deploy/compose.yaml")


@nox.session
def typecheck(session):
    """Strict types in every package's sources."""
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    for name in IMPORT_NAMES.values():
        session.run("mypy", "-p", name)


@nox.session
def docs(session):
    """The documentation site, into a folder that it names; links lead somewhere, search works."""
    sync(session, "--only-group=docs")
    place = pathlib.Path(session.create_tmp(), "site").resolve()
    session.run("python", "docs/site/stage.py", str(place))
    session.run("zensical", "build", "--strict", "-f", str(place / "mkdocs.yml"))
    session.run(
        *("pytest", "-q", "docs/site"),
        env={"SITE": str(place / "site"), "PYTHONPATH": "docs/site"},
    )
    session.log(f"open {place / 'site' / 'index.html'}")


@nox.session
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def tests(session, package):
    """One package's tests, with that package's own dependencies and nothing else."""
    for group, folder in suites(package).items():
        sync(session, "--package", package, "--no-default-groups", "--group", group)
        with session.chdir(PACKAGES[package]):
            command = ("pytest", "-q", *in_processes(package, group), folder, *session.posargs)
            session.run(*command, env=ONE_THREAD)


@nox.session
@nox.parametrize("package", list(PACKAGES), ids=list(PACKAGES))
def wheels(session, package):
    """One package as its users get it: its wheel alone, tested with the sources out of reach."""
    dist = pathlib.Path(session.create_tmp(), "dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    session.run("uv", "build", "--quiet", "--all-packages", "--wheel", f"--out-dir={dist}")
    built = [f"{n} @ {next(dist.glob(f'{m}-*.whl')).as_uri()}" for n, m in IMPORT_NAMES.items()]
    (dist / "ours.txt").write_text("\n".join(built) + "\n")
    for group, folder in suites(package).items():
        test_wheel(session, package, group, folder)


def test_wheel(session, package, group, folder):
    """Install one wheel with its test tools in a new environment and run its tests there."""
    place = pathlib.Path(session.create_tmp(), f"{package}-{group}").resolve()
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(
        PACKAGES[package], place, ignore=shutil.ignore_patterns("src", ".*", "__pycache__")
    )
    tools = nox.project.dependency_groups(project(package), group)
    environment = place / ".venv"
    ours = place.parent / "dist" / "ours.txt"
    python = environment / "bin" / "python"
    session.run("uv", "venv", "--quiet", str(environment))
    install = ("uv", "pip", "install", "--quiet", f"--python={python}", f"--constraints={ours}")
    session.run(*install, package, *tools)
    with session.chdir(place):
        # The same draws each time, so that a failure can be seen again; `tests` draws others.
        command = (str(python), "-P", "-m", "pytest", "-q", "--hypothesis-seed=0")
        processes = in_processes(package, group)
        session.run(*command, *processes, folder, *session.posargs, external=True, env=ONE_THREAD)


@nox.session
def coverage(session):
    """Line and branch coverage of every module: `nox -s coverage -- heimdall-features` for one."""
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    found = pathlib.Path(session.create_tmp(), "found").resolve()
    shutil.rmtree(found, ignore_errors=True)
    settings = f"--rcfile={ROOT / 'pyproject.toml'}"
    for package in session.posargs or PACKAGES:
        for group, folder in suites(package).items():
            command = ("coverage", "run", settings, "-m", "pytest", "-q", folder)
            with session.chdir(PACKAGES[package]):
                session.run(
                    *command,
                    *in_processes(package, group),
                    env={"COVERAGE_FILE": str(found / package), **ONE_THREAD},
                    success_codes=[0, 1],  # a test that fails still covers
                )
    total = {"COVERAGE_FILE": str(found / "all")}
    files = map(str, found.iterdir())
    session.run("coverage", "combine", "--quiet", "--keep", settings, *files, env=total)
    session.run("coverage", "report", settings, env=total)


@nox.session
def bench(session):
    """Every package's benchmarks: `nox -s bench -- heimdall-features` for one package."""
    for package in session.posargs or PACKAGES:
        scripts = sorted((PACKAGES[package] / "benchmarks").glob("bench_*.py"))
        group = "bench" if "bench" in project(package)["dependency-groups"] else "test"
        if scripts:
            sync(
                session,
                "--package",
                package,
                "--no-default-groups",
                "--all-extras",
                "--group",
                group,
            )
        for script in scripts:
            session.run("python", str(script))


@nox.session
def accuracy(session):
    """Every method's accuracy on simulated sessions, into docs/accuracy.md."""
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    session.run("python", "apps/trainer/benchmarks/accuracy.py", *session.posargs)


@nox.session
def accuracy_real(session):
    """Every method's accuracy on real measurements, into docs/accuracy-real.md."""
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    session.run("python", "apps/trainer/benchmarks/accuracy_real.py", *session.posargs)


@nox.session
def mutants(session):
    """Small faults that the tests of a module find: `nox -s mutants -- mel losses` for some.

    mutmut makes one fault at a time and runs the tests that reach it, forked after the imports.
    It leaves properties and values outside functions as they are. A pattern tries those faults
    alone whose name fits, such as every fifth: `nox -s mutants -- split '*[05]'`.
    """
    sync(session, "--all-packages", "--all-extras", "--all-groups")
    table = ["module                         mutants  killed      %"]
    survivors = []
    patterns = [each for each in session.posargs if "*" in each]
    chosen = {*session.posargs}.difference(patterns)
    for package, modules in JUDGES.items():
        for module in modules:
            if chosen and module not in chosen:
                continue
            codes, alive = mutated(session, package, module, patterns)
            n, n_killed = len(codes), len(codes) - len(alive)
            name = f"{IMPORT_NAMES[package]}.{module}"
            table.append(f"{name:30} {n:7} {n_killed:7} {100 * n_killed / n:6.1f}")
            survivors += alive
    print(*survivors, *table, sep="\n")


def mutated(session, package, module, patterns):
    """The exit code of the tests by mutant, and the difference of each that none of them finds."""
    place = pathlib.Path(session.create_tmp(), package, module).resolve()
    shutil.rmtree(place, ignore_errors=True)
    ignored = shutil.ignore_patterns(".*", "__pycache__", "setup.cfg")
    shutil.copytree(PACKAGES[package], place, ignore=ignored)
    name = IMPORT_NAMES[package]
    tests = "\n    ".join(f"tests/{each}" for each in JUDGES[package][module].split())
    (place / "setup.cfg").write_text(MUTMUT.format(package=name, module=module, tests=tests))
    for path in (place / "src" / name).rglob("*.py"):
        # What was computed without a fault must not hide it.
        uncached = re.sub(r"@functools\.(lru_)?cache.*\n", "", path.read_text("utf-8"))
        path.write_text(uncached, "utf-8")
    plugins = place / "plugins"
    plugins.mkdir()
    (plugins / "unshrunk.py").write_text(UNSHRUNK)
    with session.chdir(place):
        # Threads of PyTorch do not survive the forks.
        alone = {**ONE_THREAD, "PYTHONPATH": str(plugins)}
        session.run("mutmut", "run", "--max-children=1", *patterns, silent=True, env=alone)
        meta = place / "mutants" / "src" / name / f"{module}.py.meta"
        all_codes = json.loads(meta.read_text("utf-8"))["exit_code_by_key"]
        codes = {mutant: code for mutant, code in all_codes.items() if code is not None}
        # 0: the tests passed; 33: none of them comes here; 36, -24: they did not end in time.
        alive = [
            session.run("mutmut", "show", mutant, silent=True, log=False)
            for mutant, code in codes.items()
            if code in {0, 33, 36, -24}
        ]
    return codes, alive
