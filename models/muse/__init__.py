"""MUSE: emotional tokens optimised while sampling (Xia et al., "MUSE", sections IV-A to IV-C).

HOW    tokens S after the text's embeddings are optimised so that a classifier sees the target emotion in the clean
       prediction of each step (`tokens`, `inner`; equations 7 and 8)
WHEN   a gate opens once the clean prediction fits the prompt (`gate`, `run`; equations 9 and 10)
WHICH  a loss pushes the target and holds down the inherent and the similar emotions (`loss`; equations 11 to 13)

`Muse` is the plan of it, which never changes; `MuseRun` one run's state; `muse_guider` makes a GUIDER of a plan. What
the paper leaves open is settled where it is coded. All of it is written over `diffusion.protocol` alone.
"""

from .config import MuseConfig
from .gate import TimingGate
from .guider import Muse, muse_guider
from .loss import EmotionLoss
from .run import MuseRun
from .tokens import EmotionTokens, check_width, initial_tokens
from .trace import Trace, TraceCall, TraceStore

__all__ = [
    "EmotionLoss",
    "EmotionTokens",
    "Muse",
    "MuseConfig",
    "MuseRun",
    "TimingGate",
    "Trace",
    "TraceCall",
    "TraceStore",
    "check_width",
    "initial_tokens",
    "muse_guider",
]
