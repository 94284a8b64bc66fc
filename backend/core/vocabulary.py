"""The words that a small model was trained on, and which words of a prompt are none of them."""

from __future__ import annotations

import unicodedata

APOSTROPHES = "'\N{RIGHT SINGLE QUOTATION MARK}"


def _words(text: str) -> list[str]:
    """Runs of letters, digits and their accents, and the apostrophes within."""
    return [
        word.strip(APOSTROPHES)
        for word in "".join(sign if _is_of_a_word(sign) else " " for sign in text).split()
        if word.strip(APOSTROPHES)
    ]


def _is_of_a_word(sign: str) -> bool:
    return sign.isalnum() or sign in APOSTROPHES or unicodedata.category(sign).startswith("M")


# The captions of SkyReels V2 Tiny (training/tiny/world.py): what it draws, and below what it learned to pass over.
PAINTED_WORDS = frozenset(
    _words(
        """
        boat sailboat sailing fishing ship balloon hot air bird gull seagull flying car automobile taxi train
        steam locomotive railway rocket spaceship space fish tropical swimming ball beach toy rubber star
        shining bright tree tall leafy red scarlet crimson orange amber yellow golden green emerald blue azure
        purple violet lilac pink rosy white snow pure small little tiny big large huge drifts sails floats moves
        glides flies soars drives rolls goes races travels swims darts stands still does not move rests stays
        waits rises slowly climbs ascends sinks comes down descends circles circle round turns bounces hops
        jumps grows closer larger nearer gets bigger left leftwards right rightwards sea calm ocean waves hills
        countryside meadow city street downtown desert sand dunes water underwater deep reef dawn early morning
        sunrise noon day midday daylight sunny sunset evening dusk light night moon moonlight stars dark clear
        sky weather cloudy many clouds rain rains rainy falling snows falls camera static shot pans pan slow
        push zooms zoom pull back beautiful cinematic old lonely lovely happy funny wonderful strange shiny
        wooden cute friendly magic quiet highly detailed 4k masterpiece flat illustrated style illustration
        cartoon peaceful mood dreamy shallow depth field film grain soft long time smile like dream far home
        """
    )
)
# Other forms of verbs that a direction follows: the text encoder reads "flying left" as "flies left". It does not so
# read "rising" and "bouncing", where the verb alone says the motion.
DIRECTED_FORMS = frozenset(
    _words(
        """
        drift drifting drifted sail sailed float floating moving moved glide gliding fly drive driving roll
        rolling go going swim travel travelling traveling
        """
    )
)
# Words that stand between the words for what is seen.
FUNCTION_WORDS = frozenset(
    _words(
        """
        a about above across again all along also although always am among an and another any are as at away be
        because been being both but by can could during each every for from had has have he her here his how i
        if in into is it its just me my of off on onto or our out over own per quite she so some such than that
        the their them then there these they this those through to together toward towards under until up upon
        very was we were what when where which while who whose will with would you your
        """
    )
)


def unknown_words(text: str, known: frozenset[str]) -> tuple[str, ...]:
    """The words of `text` that are neither `known`, nor the plural in -s of one, nor function words of English: each
    once, in their order and as they are written first.

    >>> unknown_words("Two cats and a red boat", PAINTED_WORDS)
    ('Two', 'cats')
    """
    found: dict[str, str] = {}
    for word in _words(text):
        lower = word.lower()
        for mark in APOSTROPHES:
            lower = lower.removesuffix(f"{mark}s")
        if not {lower, lower.removesuffix("s")} & known and lower not in FUNCTION_WORDS:
            found.setdefault(lower, word)
    return tuple(found.values())
