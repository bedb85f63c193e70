"""Which images a result is counted over, by name: every reported number says its protocol.

`docs/protocols.md` says the same in words.
"""

from heads.protocols.base import Change, Part, Parts, Protocol, ProtocolError, Score, Units
from heads.protocols.class_splits import HeldOut, SearchPart
from heads.protocols.correspondence import (
    CorrespondencePart,
    CorrespondenceProtocol,
    PointPair,
    PredictedPair,
)
from heads.protocols.file_lists import FileListsProtocol
from heads.protocols.paper import PaperNumbers
from heads.protocols.recognition import RecognitionPart, RecognitionProtocol
from heads.protocols.registry import find_protocol, protocol_names
from heads.protocols.retrieval import (
    CategoryRetrieval,
    FineGrainedProtocol,
    RetrievalProtocol,
)
from heads.protocols.segmentation import SegmentationPart, SegmentationProtocol

__all__ = [
    "CategoryRetrieval",
    "Change",
    "CorrespondencePart",
    "CorrespondenceProtocol",
    "FileListsProtocol",
    "FineGrainedProtocol",
    "HeldOut",
    "PaperNumbers",
    "Part",
    "Parts",
    "PointPair",
    "PredictedPair",
    "Protocol",
    "ProtocolError",
    "RecognitionPart",
    "RecognitionProtocol",
    "RetrievalProtocol",
    "Score",
    "SearchPart",
    "SegmentationPart",
    "SegmentationProtocol",
    "Units",
    "find_protocol",
    "protocol_names",
]
