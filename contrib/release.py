"""Checks that the checkout can be released, and builds the sdist and the wheel; `make release` calls it.

Nothing is published and no tag is made: docs/releasing.md says what a person does before and after.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1]
#: The one place of the version number; the build reads it there as well.
VERSION = SOURCE / "redstreamd" / "__init__.py"


def main() -> int:
    """Check, build into dist/, say what is next, and return the exit status."""
    version = _version()
    if problems := _problems(version):
        print(f"{version} cannot be released:", *problems, sep="\n- ", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as place:
        command = (sys.executable, "-m", "build", "--no-isolation", "--outdir", place, SOURCE)
        if status := subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
            return status
        built = sorted(Path(place).iterdir())
        if missing := _missing_from_sdist(next(Path(place).glob("*.tar.gz"))):
            print("The sdist lacks committed files:", *missing, sep="\n- ", file=sys.stderr)
            return 1
        (SOURCE / "dist").mkdir(exist_ok=True)
        for file in built:
            shutil.copy(file, SOURCE / "dist")
    print(*(f"dist/{file.name}" for file in built), sep="\n")
    print(f"Next: git tag --annotate --message 'redstreamd {version}' v{version}; docs/releasing.md goes on.")
    return 0


def _version() -> str:
    found = re.search(r'^__version__ = "([^"]+)"$', VERSION.read_text("utf-8"), re.MULTILINE)
    if found is None:
        raise SystemExit(f"no version number in {VERSION}")
    return found.group(1)


def _problems(version: str) -> list[str]:
    """Return what stands in the way of releasing `version` from this checkout."""
    problems = []
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        problems.append(f"the version in redstreamd/__init__.py is {version}, not of the form 1.2.3")
    if changed := _git("status", "--porcelain"):
        problems.append(f"the checkout has changes that are not committed: {', '.join(changed.splitlines())}")
    tagged = _git("tag", "--list", f"v{version}", "--format=%(objectname) %(*objectname)").split()
    if tagged and _git("rev-parse", "HEAD") not in tagged:
        problems.append(
            f"v{version} is the tag of another commit: raise __version__ in redstreamd/__init__.py"
        )
    # One section after another: the text before the first, then heading, text, heading, text.
    _, *sections = re.split(r"^## (.+)$", (SOURCE / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    texts = dict(zip(sections[::2], (text.strip() for text in sections[1::2]), strict=True))
    if texts.pop("Unreleased", ""):
        problems.append(f'CHANGELOG.md has text under "Unreleased": move it to "{version} - <date>"')
    heading = next(iter(texts), "")
    named, _, date = heading.partition(" - ")
    if named != version or not texts[heading]:
        problems.append(f'the first release in CHANGELOG.md with a text is not {version}, but "{heading}"')
    elif not _is_date(date):
        problems.append(f'the heading "{heading}" in CHANGELOG.md has no date of the form 2026-01-31')
    return problems


def _is_date(text: str) -> bool:
    try:
        return dt.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _missing_from_sdist(sdist: Path) -> list[str]:
    """Return the committed files that are not in the sdist: whoever builds from it needs all of them."""
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    return sorted(set(_git("ls-files").splitlines()) - held)


def _git(*words: str) -> str:
    done = subprocess.run(("git", "-C", SOURCE, *words), check=True, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
