"""`python -m tests.hostile.fuzz TARGET SECONDS SEED FOLDER`: atheris on one target, led by what its code covers.

What is found new is kept in FOLDER, a crash as `crash-...`; then the exit code is not 0.
"""

from __future__ import annotations

import sys
from pathlib import Path

MOST_BYTES = 65_536
MOST_RSS_MB = 1_024
MOST_SECONDS_AN_INPUT = 10


def main(name: str, seconds: str, seed: str, folder: str) -> None:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

    with atheris.instrument_imports(
        include=["commands", "domain", "projections", "queries", "ops", "json", "msgspec"]
    ):
        from tests.hostile.targets import CORPUS, TARGETS

    Path(folder).mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={MOST_BYTES}",
        f"-rss_limit_mb={MOST_RSS_MB}",
        f"-timeout={MOST_SECONDS_AN_INPUT}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, folder, str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
