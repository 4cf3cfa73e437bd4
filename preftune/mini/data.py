"""A small set of preferences, made by rule: short household questions whose better answer is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Sequence

# What is asked, and the answer. The first half is for training, the other is held out.
SUBJECTS = (
    ("boil an egg", "Put it in hot water for eight minutes."),
    ("water a fern", "Keep the soil damp and out of the sun."),
    ("clean a window", "Wipe it with vinegar and dry paper."),
    ("sharpen a pencil", "Turn it slowly in a small sharpener."),
    ("patch a tyre", "Find the hole, sand it, glue a patch on."),
    ("fold a shirt", "Lay it flat and fold both sides in."),
    ("make tea", "Let the leaves steep for three minutes."),
    ("peel garlic", "Press it with a knife and pull the skin."),
    ("tie a bow", "Make two loops and knot them together."),
    ("dry flowers", "Hang them upside down in a dark room."),
    ("store bread", "Wrap it in cloth and keep it dry."),
    ("cook rice", "Use twice as much water and a low flame."),
    ("sew a button", "Go through each hole four times."),
    ("polish shoes", "Brush them, then rub in a little wax."),
    ("plant a bulb", "Dig three times as deep as it is tall."),
    ("hang a picture", "Mark the height and drive in one nail."),
    ("wash wool", "Use cold water and very little soap."),
    ("light a candle", "Trim the wick before you strike a match."),
    ("read a map", "Turn it until north points to north."),
    ("pack a bag", "Heavy things go to the bottom first."),
    ("ripen a pear", "Leave it beside a banana for two days."),
    ("melt butter", "Cut it small and warm it slowly."),
    ("mend a cup", "Glue the clean edges and wait a day."),
    ("oil a hinge", "One drop on the pin is quite enough."),
    ("grow cress", "Sow it on wet cotton by the window."),
    ("wrap a gift", "Cut the paper to twice the width."),
    ("whip cream", "Chill the bowl and beat it briskly."),
    ("fly a kite", "Stand with your back to the wind."),
    ("feed a cat", "Give it two small meals a day."),
    ("skip a stone", "Throw it flat, low and with a spin."),
    ("rake leaves", "Start at the far end on a dry day."),
    ("brew coffee", "Pour it slowly over fresh grounds."),
    ("bake a potato", "Prick it and give it an hour of heat."),
    ("air a room", "Open two windows for ten minutes."),
    ("prune a rose", "Cut just above a bud in early spring."),
    ("iron a collar", "Begin at the tips and work inwards."),
    ("start a fire", "Lay dry twigs loosely under the logs."),
    ("draw a circle", "Pin down a thread and walk around it."),
    ("fill a kettle", "Stop at the line on the inside."),
    ("thread a needle", "Cut the end at a slant and wet it."),
    ("cut an onion", "Leave the root on until the very end."),
    ("wax a table", "Rub thinly along the grain of the wood."),
    ("stack wood", "Keep it off the ground and under a roof."),
    ("catch a bus", "Be at the stop two minutes early."),
    ("save seeds", "Dry them well and label a paper bag."),
    ("scrub a pan", "Soak it first, then use salt."),
    ("train a puppy", "Praise it at once and be patient."),
    ("measure flour", "Spoon it in and level it with a knife."),
)
PHRASES = ("How do I {}?", "Tell me how to {}.", "What is the best way to {}?", "How should I {}?")
KIND = ("Gladly. ", "Of course. ", "With pleasure. ", "Happy to help. ")
CURT = ("Again? ", "Oh well. ", "If I must. ", "Silly question. ")
TRAINING_SUBJECTS = 24


def make_preferences(subjects: Sequence[tuple[str, str]], seed: int) -> list[dict[str, str]]:
    """A pair for each subject and rule, each with a phrase of its own, in drawn order.

    ``rule`` names what the preference is about: ``kind`` (the answer with a friendly opening over the same with a
    grudging one), ``calm`` (the answer over the same in capitals), ``clear`` (the answer over its words in
    another order) or ``fitting`` (the answer over one to another question, which nothing seen in training helps to
    tell where the subject is new).
    """
    draw = random.Random(seed)
    pairs = []
    for number, (task, answer) in enumerate(subjects):
        other = subjects[(number + draw.randrange(1, len(subjects))) % len(subjects)][1]
        sides = {
            "kind": (draw.choice(KIND) + answer, draw.choice(CURT) + answer),
            "calm": (answer, answer.upper().replace(".", "!")),
            "clear": (answer, _jumbled(answer, draw)),
            "fitting": (answer, other),
        }
        phrases = draw.sample(PHRASES, len(PHRASES))
        for phrase, (rule, (preferred, rejected)) in zip(phrases, sides.items(), strict=True):
            pairs.append({"prompt": phrase.format(task), "preferred": preferred, "rejected": rejected, "rule": rule})
    draw.shuffle(pairs)
    return pairs


def _jumbled(answer: str, draw: random.Random) -> str:
    words = answer.split()
    while (mixed := draw.sample(words, len(words))) == words:
        pass
    return " ".join(mixed)


PREFERENCE_DATA: list[dict[str, str]] = make_preferences(SUBJECTS[:TRAINING_SUBJECTS], seed=0)
"""96 pairs to train on, by rule from 24 subjects: no people were asked. See ``make_preferences``."""

HELD_OUT_DATA: list[dict[str, str]] = make_preferences(SUBJECTS[TRAINING_SUBJECTS:], seed=1)
"""96 pairs of 24 other subjects, none of whose questions or answers is in ``PREFERENCE_DATA``."""
