"""Where a wearable's samples come from here: a WFDB record, a generator; both as `stream.Chunk`s, as `table.py`'s text.

A sensor's driver would stand in this file's place. Samples that cannot be twelve leads in millivolts at 500 Hz are
refused. wfdb is imported when a record is read: it alone takes a second.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from client import intake
from client.intake import CHUNK
from client.stream import Chunk
from shared.errors import StreamError
from shared.settings import LEADS, SAMPLING_HZ

BLOCK = 60 * SAMPLING_HZ  # samples read from a record at once
MILLIVOLTS = {"mV": 1.0, "uV": 1e-3, "V": 1e3}  # a header that states its unit is believed
# A beat of the generator: millivolts, seconds after its begin, width in seconds.
WAVES = ((0.12, 0.16, 0.025), (-0.10, 0.268, 0.010), (1.10, 0.30, 0.011), (-0.25, 0.33, 0.012), (0.30, 0.56, 0.045))
TOWARDS = {"I": 0.6, "II": 1.0, "V1": -0.5, "V2": -0.2, "V3": 0.5, "V4": 1.1, "V5": 1.0, "V6": 0.8}


def record(path: Path) -> Iterator[Chunk]:
    """Give a WFDB record of any length; samples that its format calls invalid are missing.

    Raises:
        StreamError: it cannot be read, or has other leads, units or another sampling rate.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 calls pandas in a way that warns
        import wfdb

    name = path.with_suffix("") if path.suffix in (".hea", ".dat") else path
    try:
        header = wfdb.rdheader(str(name))
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise StreamError(f"{name} is no WFDB record ({error})", "format") from None
    if isinstance(header, wfdb.MultiRecord):
        raise StreamError(f"record {name.name} is of several segments, expected one; give them one by one", "format")
    if header.sig_len is None:
        raise StreamError(f"the header of record {name.name} does not say how long it is", "format")
    intake.refuse_rate(float(header.fs), of=f"record {name.name}")
    columns = intake.columns([str(lead).upper() for lead in header.sig_name or ()], of=f"record {name.name}")
    unknown = sorted({header.units[column] for column in columns} - MILLIVOLTS.keys())
    if unknown:
        raise StreamError(f"record {name.name} is in {', '.join(unknown)}, expected mV, uV or V", "units")
    scale = np.array([MILLIVOLTS[header.units[column]] for column in columns])[:, None]
    for since in range(0, header.sig_len, BLOCK):
        try:
            block = wfdb.rdrecord(
                str(name), sampfrom=since, sampto=min(since + BLOCK, header.sig_len), channels=columns
            )
        except (OSError, ValueError) as error:
            raise StreamError(f"record {name.name} cannot be read after {since} samples ({error})", "format") from None
        yield from intake.chunks(since, (block.p_signal.T * scale).astype(np.float32))


def generated(seconds: float) -> Iterator[Chunk]:
    """Give a made-up regular rhythm of 60 a minute: what a bench plays into the electrodes, and no patient's."""
    at = np.arange(SAMPLING_HZ) / SAMPLING_HZ
    beat = sum(height * np.exp(-0.5 * ((at - centre) / width) ** 2) for height, centre, width in WAVES)
    leads = {name: share * beat for name, share in TOWARDS.items()}
    leads |= {"III": leads["II"] - leads["I"], "AVR": -(leads["I"] + leads["II"]) / 2}
    leads |= {"AVL": leads["I"] - leads["II"] / 2, "AVF": leads["II"] - leads["I"] / 2}
    period = np.stack([leads[name] for name in LEADS]).astype(np.float32)
    for since in range(0, round(seconds * SAMPLING_HZ), CHUNK):
        places = np.arange(since, min(since + CHUNK, round(seconds * SAMPLING_HZ)))
        ripple = np.sin(places * np.linspace(2, 3, len(LEADS))[:, None]).astype(np.float32)  # 160 Hz and more
        yield Chunk(since, period[:, places % SAMPLING_HZ] + np.float32(0.005) * ripple)
