"""The normalised prompt: what makes two prompts the same prompt.

Unicode NFC; every run of white space (Unicode's White_Space, and the separators U+001C to U+001F) becomes one space;
none at either end of a turn. Turns keep their roles. Answers are not normalised: white space matters in them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from kilter.data.turns import Turns

_SPACES_BUT_BLANK = (
    r"\t\n\x0b\f\r\x1c-\x1f\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}"
)
# Single blanks need no replacement, and leaving them alone is what makes this fast.
_IRREGULAR = rf"[ {_SPACES_BUT_BLANK}]{{2,}}|[{_SPACES_BUT_BLANK}]"
SEPARATOR = "\x1f"


def normalise_text(text: Any) -> Any:
    """Normalise a string array: NFC, white space collapsed and trimmed."""
    text = pc.utf8_normalize(text, "NFC")
    irregular = pc.match_substring_regex(text, _IRREGULAR)
    if pc.any(irregular).as_py():
        collapsed = pc.replace_substring_regex(text.filter(irregular), _IRREGULAR, " ")
        text = pc.replace_with_mask(text, irregular, collapsed)
    return pc.ascii_trim(text, " ")


def tagged(turns: "Turns") -> "tuple[Any, NDArray[np.int64], NDArray[np.bool_]]":
    """Write out prompts for hashing: each turn as role, U+001F, normalised content, U+001F.

    Returns:
        The flat turns of the rows as one string array; each row's bounds in it (one more than rows); and for each row
        whether normalising changed it.
    """
    flat = turns.compact()
    contents = normalise_text(flat.contents)
    changed = flat.any_row(pc.not_equal(contents, flat.contents).to_numpy(zero_copy_only=False))
    text = pc.binary_join_element_wise(flat.roles, contents, "", SEPARATOR)
    return text, np.concatenate([[0], flat.stops]), changed


def exact(turns: "Turns") -> "tuple[Any, NDArray[np.int64]]":
    """Write out turns for hashing as they are, each as role, length in bytes, content, between U+001F."""
    flat = turns.compact()
    length = pc.binary_length(flat.contents).cast(pa.string())
    text = pc.binary_join_element_wise(flat.roles, length, flat.contents, SEPARATOR)
    return text, np.concatenate([[0], flat.stops])
