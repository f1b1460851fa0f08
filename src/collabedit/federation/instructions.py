"""The README of each member's folder: the exact commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from collabedit.files import write_text

__all__ = ["write_instructions"]

_COORDINATOR = """\
# Coordinator

You ask the parties, check and merge what they send, and never see an edit. Port {port} of {host}
must be open for the parties.

```sh
pip install "collabedit[flare]"
collabedit federation coordinator start --kit .
```

Leave it running. The next step needs a round file and the covariance of its model; anyone who has
the model can make them (`collabedit round new -o round.json`,
`collabedit stats collect -o covariance.safetensors`). In another terminal:

```sh
collabedit federation coordinator status --kit .
collabedit federation coordinator run --kit . --round round.json \\
    --covariance covariance.safetensors --min-parties {count} -o rounds
collabedit federation coordinator results -o rounds
```

After an interruption, run the same command again: it continues after the last finished exchange.
"""

_PARTY = """\
# {party}

Your facts stay in your process. Only statistics of them, and votes on what is merged, leave it.
Your machine opens a connection to {host}:{port} and accepts none.

```sh
pip install "collabedit[flare]"
collabedit federation party join --kit kit --requests private.jsonl --model MODEL
```

`MODEL` is a directory, a .gguf file or a Hub id of the model that the federation edits. Leave the
command running; it takes part in every round from then on. The deltas of accepted rounds are
written to `deltas/`; `collabedit apply DELTA -o DIR` writes one into the model.

`kit/startup/client.key` is your identity: keep it secret.
"""


def write_instructions(folder: Path, host: str, port: int, parties: Sequence[str]) -> None:
    """Write a README into each member's folder.

    Args:
        folder: the federation's folder.
        host: where parties reach the coordinator.
        port: the coordinator's port.
        parties: their names.
    """
    text = _COORDINATOR.format(host=host, port=port, count=max(1, min(2, len(parties))))
    write_text(folder / "coordinator" / "README.md", text)
    for party in parties:
        write_text(folder / party / "README.md", _PARTY.format(party=party, host=host, port=port))
