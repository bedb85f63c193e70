"""One extractor for several heads: a picture's features are computed once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from pipeline.extraction.extract import BaseExtractor, Computed, Computing

N_SHARED = 8
"""Pictures whose features are kept for the next head: about 20 MB each at the paper's sizes."""


class SharedExtractor(BaseExtractor):
    """Gives a head the features that another has had computed.

    A single picture is computed for all heads together, and the latest ones are kept. Batches are
    passed on as they are asked for: those describe a gallery, for one head.

    Args:
        extractor: what computes.
        arrays: what all the heads together read.
    """

    def __init__(self, extractor: BaseExtractor, arrays: Sequence[str]) -> None:
        super().__init__(extractor.device, extractor.batch_size)
        self._extractor = extractor
        self._arrays = tuple(arrays)
        self._known: OrderedDict[str, dict[str, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()

    def start(
        self, squares: np.ndarray, sha256s: Sequence[str], arrays: Sequence[str]
    ) -> Computing:
        """See `BaseExtractor`."""
        with self._lock:
            if len(sha256s) != 1:
                return self._extractor.start(squares, sha256s, arrays)
            (sha256,) = sha256s
            if sha256 not in self._known:
                self._known[sha256] = self._extractor(squares, sha256s, self._arrays)
                if len(self._known) > N_SHARED:
                    self._known.popitem(last=False)
            return Computed({name: self._known[sha256][name] for name in arrays})
