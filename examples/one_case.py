"""Segment one scan from Python and print a volume an organ: python examples/one_case.py SCAN."""

import sys

import segmate_cli as segmate


def main(path: str) -> None:
    scan = segmate.load(path)
    labels = segmate.predict(scan)
    for each in segmate.measure(labels, scan):
        volume = "not found" if each.volume_ml is None else f"{each.volume_ml:.0f} ml"
        print(f"{each.organ.title:<14} {volume:>10}{'  (cut?)' if each.touches_edge else ''}")


if __name__ == "__main__":
    main(sys.argv[1])
