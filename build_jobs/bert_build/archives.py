"""The only archives that a build opens: pytorch_model.bin is a zip file. Called by pickled before PyTorch reads it.

Nothing else is unpacked, whatever a source holds: tar files, zip files and .npz among its files are not even taken.
"""

import zipfile
from pathlib import Path
from typing import Final

from bert_build import progress
from bert_build.failures import BuildError

_AGAIN: Final = "Save the model again with `save_pretrained`, which writes safetensors."


def refuse_bombs(path: Path, name: str) -> None:
    """Refuse an archive that holds more than its own size.

    PyTorch stores tensors as they are. What is packed, or named twice, needs memory that no check has counted.

    Raises:
        BuildError: it would grow, or is damaged.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError) as error:
        raise BuildError("SourceCorrupt", f"{name} is a damaged archive: {error}.", _AGAIN) from error
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or total > size:
        raise BuildError(
            "SourceUnsafe",
            f"{name} has {progress.size(size)} and would unpack to {progress.size(total)}; PyTorch packs nothing.",
            _AGAIN,
        )
