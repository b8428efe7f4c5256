#!/usr/bin/env python3
"""Judges exported histories of registers: python3 check_history.py FILE...

Written from docs/histories.md alone, and in another way than the checker of the simulation: it walks through calls and
returns in the order of time and keeps every state that the register may be in by then (Horn and Kroening, Lowe). It exits
with 0 if every register of every file is linearizable, with 1 if one is not, with 2 if a file is not in the format.
"""

import collections
import json
import sys

FORMAT, VERSION = "quorate-history", 1


class Malformed(Exception):
    pass


def read(path):
    """The initial value, and the operations of each register."""
    with open(path, encoding="utf-8") as file:
        header = json.loads(file.readline())
        if header.get("format") != FORMAT or header.get("version", 0) > VERSION:
            raise Malformed(f"{path}: not a {FORMAT} of version {VERSION}")
        registers, open_until, ended = collections.defaultdict(list), {}, set()
        for number, line in enumerate(file, start=2):
            operation = json.loads(line)
            process = operation["process"]
            if process in ended or operation["call"] < open_until.get(process, 0):
                raise Malformed(f"{path}:{number}: process {process} has two operations at a time")
            if operation["outcome"] == "unknown":
                ended.add(process)
            else:
                open_until[process] = operation["return"]
            registers[operation["key"]].append(operation)
        return header["initial"], registers


def effect(operation):
    """What an operation requires of the register and leaves in it: (required, expected, new). None: it says nothing."""
    kind, outcome = operation["op"], operation["outcome"]
    if outcome == "fail":
        # One that did not apply is a read of what it found, if it tells.
        return (True, operation["found"], KEEP) if "found" in operation else None
    if kind == "read":
        return (True, operation["found"], KEEP) if outcome == "ok" else None
    expected = operation["expected"] if kind == "cas" else ANY
    return (outcome == "ok", expected, operation["value"])


class Sign:
    """Values that no register holds."""


ANY, KEEP = Sign(), Sign()


def relevant(operations):
    """Leaves out what may have happened and nobody saw: that it never did is always possible."""
    kept = [(operation, effect(operation)) for operation in operations]
    kept = [(operation, done) for operation, done in kept if done is not None]
    seen = {expected for _, (required, expected, _) in kept if required and expected is not ANY}
    grows = True
    while grows:
        grows = False
        for _, (required, expected, new) in kept:
            if not required and new in seen and expected is not ANY and expected not in seen:
                seen.add(expected)
                grows = True
    return [(operation, done) for operation, done in kept if done[0] or done[2] in seen]


def linearizable(initial, operations):
    """None if there is an order, else the operation that has no place in any."""
    effects, moments = {}, []
    for number, (operation, done) in enumerate(relevant(operations)):
        effects[number] = (operation, done)
        moments.append((operation["call"], 0, number))
        if done[0]:
            # A return at the very moment of a call comes after it: the two overlap.
            moments.append((operation["return"], 1, number))
    moments.sort()
    # A state is the value of the register, and which of the pending operations have taken effect.
    states, pending = {(initial, frozenset())}, set()
    for _, returns, number in moments:
        if not returns:
            pending.add(number)
            continue
        reached, todo = set(), list(states)
        known = set(states)
        while todo:
            value, taken = todo.pop()
            if number in taken:
                reached.add((value, taken - {number}))
                continue
            for candidate in pending - taken:
                _, (_, expected, new) = effects[candidate]
                if expected is ANY or expected == value:
                    state = (value if new is KEEP else new, taken | {candidate})
                    if state not in known:
                        known.add(state)
                        todo.append(state)
        if not reached:
            return effects[number][0]
        states = reached
        pending.discard(number)
    return None


def main(paths):
    broken = 0
    for path in paths:
        try:
            initial, registers = read(path)
        except (Malformed, ValueError, KeyError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 2
        for key, operations in sorted(registers.items()):
            stuck = linearizable(initial, operations)
            if stuck is not None:
                broken += 1
                print(f"{path}: {key} is not linearizable: no order has a place for {json.dumps(stuck)}")
        total = sum(len(operations) for operations in registers.values())
        print(f"{path}: {total} operations on {len(registers)} registers")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
