"""Independent reference implementations, against which the tests hold the product.

Written from the pinned numerics alone, with stock diffusers, open_clip, Pillow and torch; nothing
here imports the product. Clarity comes before speed: one image at a time, float32, no caching.

- `images`: a picture file to the letterboxed square.
- `unet`: the UNet with injection, spelled out sub-module by sub-module.
- `hooks`: the same through forward hooks on the unmodified UNet.
- `features`: from an image file and weights on disk to every array of the store.
"""
