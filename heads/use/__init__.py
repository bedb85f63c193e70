"""A trained run, used on pictures of one's own.

    trained = open_trained("runs/retrieval")
    gallery = open_gallery(trained, "photos")
    hits = gallery.search("sketch.png")

`match`, `classify` and `segment` take the trained run in the same way. A picture is a path, the
bytes of an image file, or an image of Pillow. Neither the dataset nor the stores that the run was
trained on are needed, only its folder and the backbone's weights.
"""

from heads.use.classify import classify
from heads.use.gallery import GalleryPictures
from heads.use.match import grid_points, match
from heads.use.opening import open_several, open_trained
from heads.use.pictures import LoadedPicture, UseError, load_picture, load_pictures, picture_files
from heads.use.retrieve import Gallery, open_gallery
from heads.use.segment import save_mask, segment
from heads.use.trained import Trained

__all__ = [
    "Gallery",
    "GalleryPictures",
    "LoadedPicture",
    "Trained",
    "UseError",
    "classify",
    "grid_points",
    "load_picture",
    "load_pictures",
    "match",
    "open_gallery",
    "open_several",
    "open_trained",
    "picture_files",
    "save_mask",
    "segment",
]
