"""`python -m ops.openapi`: write both documents, and say what changed."""

import sys

from ops.openapi import APPLICATIONS, FOLDER, changes, committed, document, write


def main() -> None:
    for application in APPLICATIONS:
        shown = document(application)
        known = committed(application) if (FOLDER / f"{application}.json").exists() else {}
        for line in changes(known, shown) if known else []:
            sys.stdout.write(f"{application}: {line}\n")
        write(application, shown)


if __name__ == "__main__":
    main()
