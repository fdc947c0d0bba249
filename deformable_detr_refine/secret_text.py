"""What must not become public: tokens, keys, and the parts of addresses where they stand."""

import re
from urllib.parse import urlsplit

_REMOVED = "[removed]"
_TOKEN = re.compile(
    r"\bhf_[A-Za-z0-9]{8,}"
    r"|\b(?:ghp|gho|ghs|ghu|github_pat|sk|glpat|xox[abprs])[-_][A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{35}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]*://[^\s\"'<>()\[\]`|]+")
# A name and its value, as JSON, YAML, settings of an environment and command lines have them.
_NAMED = re.compile(
    r"(?i)(?<![\w-])([\w-]*(?:token|secret|passwo?r?d|api[_-]?key|access[_-]?key|account[_-]?key|credential)[\w-]*"
    r"[\"']?\s*[:=]\s*[\"']?)(?!\[removed\])([^\s\"',;}\])`]{8,})"
)


def public_address(address: str) -> str:
    """An address as it may be written down: without user, password, query and fragment, where keys stand.

    Example:
        >>> public_address("https://user:password@example.org:8443/a/b.pth?sig=token#part")
        'https://example.org:8443/a/b.pth'
    """
    try:
        parts = urlsplit(address)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    except ValueError:
        return _REMOVED


def without_secrets(text: str, *secrets: str | None) -> str:
    """The text with these, and whatever looks like a token or a key, blotted out; its addresses as they may be public.

    Example:
        >>> without_secrets("--token hf_abcdefghijklmnop --key swordfish", "swordfish")
        '--token [removed] --key [removed]'
        >>> without_secrets("from https://me:pw@example.org/a.zip?sig=1, password: correcthorse")
        'from https://example.org/a.zip, password: [removed]'
    """
    for secret in secrets:
        text = text.replace(secret, _REMOVED) if secret else text
    text = _ADDRESS.sub(lambda found: _address_in_text(found[0]), _TOKEN.sub(_REMOVED, text))
    return _NAMED.sub(rf"\1{_REMOVED}", text)


def line_with_secret(text: str, code: bool = False) -> int | None:
    """The number of the first line that holds what looks like a token, a key or an address with a password.

    Args:
        code: the text is a program, where names of secrets have values that are none.

    Example:
        >>> line_with_secret('{\\n"api_key": "0123456789"}'), line_with_secret("api_key = settings.key", code=True)
        (2, None)
    """
    for number, line in enumerate(text.splitlines(), 1):
        addresses = (found[0] for found in _ADDRESS.finditer(line))
        if _TOKEN.search(line) or any("@" in address.split("/")[2] for address in addresses):
            return number
        if not code and _NAMED.search(line):
            return number
    return None


def _address_in_text(address: str) -> str:
    # A full stop or a comma behind it is the sentence's.
    end = len(address.rstrip(".,;:!"))
    return public_address(address[:end]) + address[end:]


__all__ = ["line_with_secret", "public_address", "without_secrets"]
