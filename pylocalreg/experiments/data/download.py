"""Downloads into the user's cache folder, held against their checksums."""

from pathlib import Path

from pylocalreg.errors import DataError


def download(url: str, sha256: str) -> Path:
    """The file at ``url``, from the cache where it is there already.

    Raises:
        DataError: it can not be had, or is not the file with this checksum.
    """
    try:
        import pooch
    except ModuleNotFoundError as error:
        raise DataError(
            f"downloads need {error.name}: pip install 'pylocalreg[experiments]', or give data.folder, or "
            "take a stand-in with data.offline=true"
        ) from error
    try:
        cache = pooch.os_cache("pylocalreg")
        return Path(pooch.retrieve(url, f"sha256:{sha256}", url.rpartition("/")[2], cache, progressbar=False))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{url} can not be downloaded ({error}): give a folder that holds its files with data.folder, or "
            "take a stand-in with data.offline=true"
        ) from error


def find(folder: Path, names: tuple[str, ...], what: str) -> Path:
    """The first of ``names`` that is in ``folder``.

    Raises:
        DataError: none is.
    """
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise DataError(f"{folder} holds none of {list(names)}: data.folder must be a folder of {what}")
