"""The canvas that an image is put together on: what is kept of uploads, masks, where boxes lie, and what is put back."""
