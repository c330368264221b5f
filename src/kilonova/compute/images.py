"""The images of a host: fetched before they are needed when an admin asks for it (2.81), and given up when
nobody has used them for long."""

from __future__ import annotations

from functools import partial

from kilonova import log
from kilonova.bus.base import quick
from kilonova.cancel import Cancel
from kilonova.compute.parts import Parts
from kilonova.domain.errors import KilonovaError, StaleEpoch
from kilonova.domain.messages import CacheImages
from kilonova.domain.servers import ImageRef
from kilonova.engine.ticker import Ticker

_OFTEN = 60.0
"""What an interval of 0 means, as Nova's periodic tasks take it."""
_log = log.get("compute.images")


class ImageKeeper:
    """One image at a time, in the ticker's thread: builds do not wait for it, nor it for them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._cancel = Cancel()
        self._ticker: Ticker | None = None

    def start(self, ticker: Ticker) -> None:
        self._ticker = ticker
        interval = self._parts.config.image_cache.manager_interval
        if interval >= 0:
            ticker.every(interval or _OFTEN, self._tidy)

    def stop(self) -> None:
        self._cancel.set()

    @quick
    def cache_images(self, message: CacheImages) -> None:
        """Each is tried once; what cannot be had is said in the log."""
        if self._ticker is not None:
            for image in message.images:
                self._ticker.after(0, partial(self._cache, image))

    def _cache(self, image: ImageRef) -> None:
        if self._cancel.is_set():
            return
        try:
            self._parts.driver.cache_image(image, self._cancel)
        except StaleEpoch:
            return
        except KilonovaError as error:
            _log.warning("image_not_cached", image=image.id, reason=error.message)
        else:
            _log.info("image_cached", image=image.id)

    def _tidy(self) -> None:
        if self._cancel.is_set():
            return
        try:
            self._parts.driver.tidy_images()
        except (KilonovaError, OSError) as error:
            _log.warning("images_not_tidied", reason=str(error))
