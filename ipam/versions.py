"""The versions of the CNI protocol, and the answer to VERSION, for which nothing else has to be loaded (C6)."""

from __future__ import annotations

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


def answer_version() -> bool:
    """Write the answer to VERSION to standard output; False if that cannot be done, and who asks should be told."""
    import posix

    listed = ",".join([f'"{version}"' for version in VERSIONS])
    text = f'{{"cniVersion":"{VERSIONS[-1]}","supportedVersions":[{listed}]}}\n'.encode()
    try:
        return posix.write(1, text) == len(text)
    except OSError:
        return False
