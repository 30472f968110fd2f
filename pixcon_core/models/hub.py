"""Whether the hub that timm takes weights from can be reached, before timm tries for long.

Where it cannot, the hub's client tries each file for 23 seconds and more, and timm asks for two files. All goes
through that client: so its proxies, mirrors (`HF_ENDPOINT`), tokens, offline mode and cache count here as there.
"""

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import get_pretrained_cfg


def check_hub(backbone: str) -> None:
    """Ask the hub once for a backbone's weights, if they are not in the cache already.

    Raises:
        Exception: Of the hub's client, of many kinds, if there is no answer within its `HF_HUB_ETAG_TIMEOUT`, or one
            that says no.
    """
    entry = get_pretrained_cfg(backbone)
    if entry is None or not entry.hf_hub_id:
        return  # the few models that timm takes from elsewhere
    repository, _, revision = entry.hf_hub_id.partition("@")
    files = [entry.hf_hub_filename] if entry.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    if any(isinstance(try_to_load_from_cache(repository, file, revision=revision or None), str) for file in files):
        return
    url = hf_hub_url(repository, files[0], revision=revision or None)
    try:
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except EntryNotFoundError:
        return  # the hub is there; timm knows other names of the file
