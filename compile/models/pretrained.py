"""Public files of trained weights, which are downloaded once and kept in a cache."""

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from mobilenet_tvm.compile.models.weight_files import StoredWeights, load_weights
from mobilenet_tvm.runtime.atomic import replacing
from mobilenet_tvm.runtime.folders import cache_folder
from mobilenet_tvm.targets.errors import UserError

_log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0  # without a byte


@dataclass(frozen=True)
class PretrainedFile:
    """A public file, identified by its content."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name, also in the cache."""
        return self.url.rpartition("/")[2]


# By model, alpha and classes; the weights fit any resolution.
PRETRAINED = {
    ("v2", 1.0, 1000): PretrainedFile(
        "https://github.com/onnx/models/raw/main/validated/vision/classification/mobilenet/"
        "model/mobilenetv2-12.onnx",
        "c0c3f76d93fa3fd6580652a45618618a220fced18babf65774ed169de0432ad5",
    ),
}


def load_pretrained(name: str, alpha: float, classes: int) -> StoredWeights:
    """Load a model's public weights; they are downloaded if they are not in the cache.

    Parameters
    ----------
    name, alpha, classes
        Of the model, as in `ModelSpec`.

    Returns
    -------
    StoredWeights
        As from `load_weights`; `origin` says that it is a public file.

    Raises
    ------
    UserError
        If no public file is known, or it cannot be downloaded or kept.
    """
    file = PRETRAINED.get((name, alpha, classes))
    if not file:
        known = ", ".join(f"{n} with alpha {a:g} and {c} classes" for n, a, c in PRETRAINED)
        raise UserError(
            f"no pretrained file is known for {name} with alpha {alpha:g} and {classes} classes "
            f"(only for {known}): give your own with --weights FILE"
        )
    stored = load_weights(cached(file))
    return replace(stored, origin=f"pretrained: {file.name} (sha256 {file.sha256[:12]})")


def cached(file: PretrainedFile) -> Path:
    """Return the path of a public file in the cache, after downloading it if it is missing.

    The cache is `mobilenet-tvm` in `$XDG_CACHE_HOME`, by default `~/.cache`.

    Parameters
    ----------
    file
        The file to get.

    Returns
    -------
    Path
        The file, whose SHA-256 is right.

    Raises
    ------
    UserError
        If the download fails or has unexpected content, or the cache cannot be
        written; nothing half-written stays.
    """
    folder = cache_folder()
    path = folder / file.name
    try:
        if path.is_file() and _sha256(path.read_bytes()) == file.sha256:
            return path
        # Before the download, so that a folder that cannot be made costs none.
        folder.mkdir(parents=True, exist_ok=True)
        content = _download(file.url)
        if (digest := _sha256(content)) != file.sha256:
            raise UserError(
                f"{file.url} has unexpected content (sha256 {digest[:12]}, not "
                f"{file.sha256[:12]}): try again later, or give your own with --weights FILE"
            )
        with replacing(path) as scratch:
            scratch.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"cannot keep {file.name} in {folder}: {error.strerror or error}; "
            "set XDG_CACHE_HOME to a folder with room that you may write"
        ) from error
    return path


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _download(url: str) -> bytes:
    """Return the content at a URL, in memory, so that an interrupted download leaves no file."""
    _log.info("downloading %s", url)
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 - from our table
            content: bytes = response.read()
            return content
    except urllib.error.HTTPError as error:
        reason = f"the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = str(error.reason)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
    raise UserError(
        f"cannot download {url}: {reason}; check the network, or download the file elsewhere "
        "and give it with --weights FILE"
    )
