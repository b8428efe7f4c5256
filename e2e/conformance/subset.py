"""subset.py CASES OTHER-TIERS OUT: the cases of resp-compatibility whose commands are of a tier that this store has.

OTHER-TIERS names patterns of commands, each with the reason why they are not there. A case with one of them is left out and listed, with
the reason, beside OUT.
"""

import fnmatch
import json
import pathlib
import sys


def reasons(path):
    """Patterns of commands with their reason."""
    for line in pathlib.Path(path).read_text().splitlines():
        pattern, _, reason = line.partition("  ")
        if pattern and not pattern.startswith("#"):
            yield pattern, reason.strip()


def main(cases, other_tiers, out):
    other = list(reasons(other_tiers))
    kept, skipped = [], []
    for case in json.loads(pathlib.Path(cases).read_text()):
        commands = {command.split()[0].lower() for command in case["command"]}
        found = [(name, reason) for name in sorted(commands) for pattern, reason in other if fnmatch.fnmatch(name, pattern)]
        if found:
            skipped.append(f"{case['name']}: {found[0][0]}: {found[0][1]}")
        elif "skipped" not in case and case.get("tags") != "standalone":
            kept.append(case)
    pathlib.Path(out).write_text(json.dumps(kept))
    pathlib.Path(out).with_suffix(".skipped").write_text("".join(f"{line}\n" for line in skipped))


main(*sys.argv[1:])
