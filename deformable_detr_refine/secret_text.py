"""What must not become public: tokens, keys, and the parts of addresses where they stand."""

import re
from urllib.parse import urlsplit

_REMOVED = "[removed]"
_TOKEN = re.compile(
    r"\b(?:hf|api_org)_[A-Za-z0-9]{8,}"
    r"|\b(?:gh[opsur]|github_pat|npm|sk|gl[a-z]{1,4}|xox[a-z]|xapp|GOCSPX|pypi)[-_][A-Za-z0-9_-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[A-Za-z0-9_-]{35}|\bdapi[0-9a-f]{32}|\bya29\.[A-Za-z0-9_-]{20,}"
    r"|\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}|\bAGE-SECRET-KEY-1[0-9A-Z]{16,}"
    r"|[A-Za-z0-9_~.]{3}[0-9]Q~[A-Za-z0-9_~.-]{31,34}"  # of an app of Azure
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"
    r"|(?i:\b(?:bearer|basic)\s+[A-Za-z0-9+/=._~-]{16,}|(?<!\S)-u\s+[^\s:]+:\S+|\bhooks\.slack\.com/services/\S+)"
    r"|(?i:(?<=[?&])(?:sig|code|key|(?:x-(?:amz|goog)-)?signature)=[^&\s\"']{6,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----))*(?:-----END [A-Z ]*-----)?"
)
_ADDRESS = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{0,20}://[^\s\"'<>()\[\]`|]+")
# User and password, whatever the password holds; behind a host, a colon begins its port. Without a scheme a password is
# no number, as in AP:0.61@ and lr:1e-4@, and before a host without a port it holds a digit or a sign that addresses of
# mail, as Authors:jane.doe@, seldom hold. A host of one name has a longer port than epoch:30.
_WORD = r"[^\s:/@\"'<>()\[\]{}|,;]{4,100}@"
_DOMAIN = r"(?=[A-Za-z])(?:[A-Za-z0-9_-]{1,60}\.){1,8}"
_USER = re.compile(
    r"(?<=://)[^\s/?#@\"]{0,100}:(?![0-9]*(?:[/?#\s\"]|$))[^\s\"]{0,200}@"
    r"|(?<![\w.%+-])(?!(?i:e?-?mail(?:to)?|(?:author|maintainer|contact)s?|support|from|to|cc|bcc|sip|xmpp|[0-9]+):)"
    r"[\w.%+-]{1,64}+:(?![0-9.eE+-]{0,100}@)"
    rf"(?:{_WORD}(?=localhost\b|[0-9]{{1,3}}(?:\.[0-9]{{1,3}}){{3}}\b|{_DOMAIN}[A-Za-z0-9_-]{{1,60}}:[0-9]{{2,5}}(?![\w.]))"
    rf"|(?=(?:[^\W0-9]|[.+-]){{0,100}}(?:[0-9]|[^\w.@+-])){_WORD}"
    rf"(?={_DOMAIN}[A-Za-z]{{2,}}\b|[A-Za-z][A-Za-z0-9_-]{{0,60}}:[0-9]{{4,5}}(?![\w.])))"
)
_KEY = "passwo?r?d|passphrase|pwd|credential|(?:api|access|account|encryption|private|signing|storage)[_-]?key"
_SECRET = rf"(?>[\w-]*?(?:token|secret|{_KEY}))[\w-]*+"
# Short names are those of secrets in a list alone, as name=x,key=y; before a parenthesis it is a call, as of max. With
# blanks a key has a digit, else it is an argument.
_LISTED = re.compile(
    r"(?im)(?P<name>(?<=[,;])(?:key|pass)="
    r"|(?:^(?:key|pass) ?= ?|(?<![\w.,;-])(?<![,;] )(?:key|pass)=)(?=[^\s,;]{1,200}[,;])"
    r"|(?<!\w)\w{1,40}+ ?= ?[^\s,;\"'()]{1,100}+[,;] (?:pass ?= ?|key ?= ?(?=[^\s,;\"'()]{0,100}[0-9])))"
    r"(?!lambda\b|\[removed\])[^\s,;\"'()]{6,}+(?![()])"
)
# As JSON, a list of arguments and addresses in addresses hold / @ : and their like.
_ESCAPED = re.compile(r"\\u00([2-7][0-9a-fA-F])|%([2-7][0-9a-fA-F])|\\([/\"])")
_SECRET_NAME = re.compile(f"(?i){_SECRET}")
# A name and its value, as JSON, YAML, settings of an environment and command lines have them.
_NAMED = re.compile(
    rf"(?i)(?<![\w-])((?:{_SECRET}[\"']?\s*+[:=]\s*+|--{_SECRET}[ =])(?:([\"'])(?=.))?+)(?!\[removed\])"
    r"(?:(?(2)(?:\\.|(?!\2)[^\n\\]){4,}|[^\s\"',;}\])`]{6,}))"
)
# Behind a comma a quoted secret mixes digits and letters or is long, for the two may be names of classes; another has
# both and ends the line, and no word stands before its name, as in prose.
_BESIDE = re.compile(
    rf"(?im)(?<![\w-])(?:({_SECRET}[\"'] ?, ?[\"'])(?=[a-z_-]{{0,40}}(?:[0-9]+[a-z]+){{2}}[0-9]|[a-z0-9+/]{{16}})"
    rf"|(?<!\w )((?>[\w-]*?(?:{_KEY}))[\w-]*+ ?, ?)(?=[^\s\"',;()}}\]]{{1,200}}\s?$))(?!\[removed\])"
    r"(?=[a-z_-]{0,40}[0-9])(?=[0-9_-]{0,40}[a-z])[^\s\"',;()}\]]{6,}"
)


def is_secret_name(name: str) -> bool:
    """Whether a setting of this name holds what must not become public.

    Example:
        >>> is_secret_name("hub_token"), is_secret_name("learning_rate")
        (True, False)
    """
    return _SECRET_NAME.match(name) is not None


def public_address(address: str) -> str:
    """An address as it may be written down: without user, password, query and fragment, where keys stand.

    Example:
        >>> public_address("https://user:password@example.org:8443/a/b.pth?sig=token#part")
        'https://example.org:8443/a/b.pth'
    """
    try:
        parts = urlsplit(_USER.sub("", address))
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
    text = "\n".join(plain if _has_secret(plain := _unescaped(line)) else line for line in text.split("\n"))
    text = _ADDRESS.sub(lambda found: _address_in_text(found[0]), _USER.sub("", text))
    text = _LISTED.sub(rf"\g<name>{_REMOVED}", _TOKEN.sub(_REMOVED, text))
    return _BESIDE.sub(rf"\1\2{_REMOVED}", _NAMED.sub(rf"\1{_REMOVED}", text))


def line_with_secret(text: str, code: bool = False) -> int | None:
    """The number of the first line that holds what looks like a token, a key or an address with a password.

    Args:
        code: the text is a program, where names of secrets have values that are none.

    Example:
        >>> line_with_secret('{\\n"api_key": "0123456789"}'), line_with_secret("api_key = settings.key", code=True)
        (2, None)
    """
    for number, line in enumerate(text.splitlines(), 1):
        if any(_has_secret(form, code) for form in {line, _unescaped(line)}):
            return number
    return None


def _has_secret(line: str, code: bool = False) -> bool:
    if _TOKEN.search(line) or _USER.search(line):
        return True
    if any("@" in found[0].split("/")[2] for found in _ADDRESS.finditer(line)):
        return True
    return not code and any(form.search(line) for form in (_NAMED, _LISTED, _BESIDE))


def _unescaped(line: str) -> str:
    return _ESCAPED.sub(lambda found: found[3] or chr(int(found[1] or found[2], 16)), line)


def _address_in_text(address: str) -> str:
    # A full stop or a comma behind it is the sentence's.
    end = len(address.rstrip(".,;:!"))
    return public_address(address[:end]) + address[end:]


__all__ = ["is_secret_name", "line_with_secret", "public_address", "without_secrets"]
