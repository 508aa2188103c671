"""How accurate every method is on measurements of others; writes docs/accuracy-real.md.

    nox -s accuracy_real -- --powder DIR --locards DIR --json FILE

Folders are those of `heimdall_data.public`; a part whose folder is not given is left out. Levels
are learned from the part `train` of POWDER FRS alone; LocaRDS is judged without any training.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
from pathlib import Path

from heimdall_data import DataError, read_locards, read_powder_frs

ROOT = Path(__file__).parents[3]
DCF77 = ROOT.parent / "shared" / "data" / "kiwisdr-dcf77-2017"


def arguments():
    """What to read and to write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--powder", type=Path, help="folder of POWDER FRS")
    parser.add_argument("--locards", type=Path, help="folder of LocaRDS")
    parser.add_argument("--dcf77", type=Path, default=DCF77, help="folder of KiwiSDR recordings")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "docs" / "accuracy-real.md", help="page to write"
    )
    parser.add_argument("--keep", type=Path, help="folder of finished parts, which are used again")
    parser.add_argument("--train", type=int, help="at most so many transmissions, for a trial")
    parser.add_argument("--epochs", type=int, default=2, help="of the network of levels")
    return parser.parse_args()


def main():
    """Judge what was given, write the page and the figures."""
    options = arguments()
    try:
        messages = read_locards(options.locards) if options.locards else None
        levels = read_powder_frs(options.powder) if options.powder else None
    except DataError as error:
        sys.exit(f"accuracy_real: {error}")
    # Importing takes seconds, and processes that locate aircraft need little of it.
    from accuracy_real_page import write_page

    powder = locards = dcf77 = None
    if messages is not None:
        from accuracy_locards import locards_results

        locards = kept(options.keep, "locards", lambda: locards_results(messages))
    if levels is not None:
        from accuracy_powder import powder_results

        with tempfile.TemporaryDirectory() as work:
            powder = kept(
                options.keep,
                "powder",
                lambda: powder_results(levels, Path(work), options.epochs, options.train),
            )
    if options.dcf77.is_dir():
        from accuracy_dcf77 import dcf77 as judged

        dcf77 = kept(options.keep, "dcf77", lambda: judged(options.dcf77))
    if options.json:
        options.json.write_text(json.dumps(figures(powder, locards), indent=1) + "\n")
    text = write_page(options.output, powder, locards, dcf77)
    print(text)


def kept(folder, part, results):
    """Results of a part, from the folder if an earlier run left them there."""
    if folder is None:
        return results()
    path = folder / f"{part}.pickle"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(results()))
    return pickle.loads(path.read_bytes())


def figures(powder, locards):
    """The contract's JSON, section 10."""
    found = {}
    if powder:
        found["powder"] = {
            part: {name: judged.figures("median_m", "p95_m") for name, judged in methods.items()}
            for part, methods in powder.methods.items()
        }
    if locards:
        found["locards"] = {
            name: judged.figures("median_m", "p90_m", "p95_m")
            for name, judged in locards.methods.items()
        }
    return found


if __name__ == "__main__":
    main()
