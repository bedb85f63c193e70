"""How the benchmarks' public code counts, for those who compare with published numbers.

Counted from the repositories of SAKE (Liu et al., ICCV 2019) and ZSE-SBIR (Lin et al., CVPR 2023):
the lists of unseen categories that they ship, and what their evaluation does with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from heads.metrics.retrieval import APVariant, PrecisionVariant


@dataclass(frozen=True)
class PeerLists:
    """What the file lists of a split hold of its unseen categories."""

    publisher: str
    n_photos: int
    n_sketches: int
    n_copies: int = 0
    """Listed photos of the extension that are listed as base photos too."""
    n_held_out: int = 0
    """Sketches of seen categories that are kept from training."""

    def differences(self, n_photos: int, n_sketches: int) -> list[str]:
        """How a gallery and queries of these sizes, and training, differ from the lists."""
        lines = []
        if (n_photos, n_sketches) != (self.n_photos, self.n_sketches):
            line = (
                f"{self.publisher}: {self.n_photos:,} photos and {self.n_sketches:,} sketches are"
                f" listed, {n_photos:,} and {n_sketches:,} are here"
            )
            if self.n_copies and n_photos <= self.n_photos - self.n_copies:
                line += (
                    f"; {self.n_copies:,} of those listed are extended copies of base photos,"
                    " which sketchy leaves out (dataset.extended=all keeps them)"
                )
            lines.append(line)
        if self.n_held_out:
            lines.append(
                f"{self.publisher}: {self.n_held_out:,} sketches of seen categories are not in the"
                " lists for training; here they train or validate"
            )
        return lines


PEER_LISTS: Mapping[str, PeerLists] = {
    "sketchy-104-21": PeerLists(
        "ZSE-SBIR (zeroshot0)", 12553, 12694, n_copies=2100, n_held_out=5200
    ),
    "sketchy-100-25": PeerLists(
        "SAKE and ZSE-SBIR (zeroshot1)", 17101, 15229, n_copies=2499, n_held_out=5000
    ),
    "tuberlin-220-30": PeerLists("SAKE and ZSE-SBIR", 27989, 2400, n_held_out=2200),
    "quickdraw-80-30": PeerLists("ZSE-SBIR", 54151, 92291),
}
"""By protocol. Of each seen category 50 sketches of Sketchy (10 of TU-Berlin) are kept from
training; sketches of unseen categories are all queries, as they are here."""


def counting_differences(
    ap: APVariant, precision: PrecisionVariant, n_without_relevant: int
) -> list[str]:
    """One line for each way in which SAKE or ZSE-SBIR would score the same rankings otherwise.

    Args:
        n_without_relevant: queries without a relevant photo that are counted here.
    """
    lines = []
    if ap != "ap-voc":
        lines.append(f"SAKE and ZSE-SBIR: AP is ap-voc, here {ap}")
    if precision != "p-k":
        lines.append(f"SAKE: P@K is p-k, here {precision}")
    if precision != "p-min":
        lines.append(f"ZSE-SBIR: P@K is p-min, here {precision}")
    here = f"{n_without_relevant:,} count as 0 here" if n_without_relevant else "none here"
    lines.append(f"ZSE-SBIR: queries without a relevant photo are dropped ({here})")
    return lines
