"""The words that the painter knows, as tables: what each means, and the phrases that must be read as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from training.painter.cast import Realm
from training.painter.scene import Camera, Extra, Motion, Setting, Size, Time, Weather


class Go(Enum):
    """Goes somewhere, but the verb does not say where to."""

    GO = "go"


class Subject(NamedTuple):
    """A word for one of `CAST`."""

    kind: str


class Colour(NamedTuple):
    """A word for one of `COLOURS`."""

    name: str


Meaning = Time | Setting | Weather | Extra | Size | Motion | Go | Subject | Colour | int  # an int is how many


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


def _table(entries: Mapping[Any, str], wrap: Callable[[Any], Meaning] = lambda value: value) -> dict[str, Meaning]:
    return {word: wrap(value) for value, words in entries.items() for word in words.split()}


TIMES = _table(
    {
        Time.DAWN: "dawn sunrise daybreak morning sunup aurore",
        Time.NOON: "noon midday day daytime daylight afternoon sunny sunlit sunshine bright",
        Time.SUNSET: "sunset dusk evening twilight sundown goldenhour afterglow",
        Time.NIGHT: (
            "night midnight nighttime nightfall moonlit moonlight moon starry starlit starlight stars dark nocturnal"
        ),
    },
)
SETTINGS = _table(
    {
        Setting.SEA: "sea ocean water harbor harbour bay wave coast gulf marina cliff rock",
        Setting.BEACH: "beach seaside shore sand island tropical palm surf lagoon",
        Setting.LAKE: "lake pond river creek fjord canal reservoir",
        Setting.HILLS: (
            "hill meadow field grass grassland countryside valley farm garden park village pasture prairie lawn "
            "savanna savannah"
        ),
        Setting.MOUNTAINS: "mountain alps alpine peak summit canyon volcano highland himalaya",
        Setting.FOREST: "forest wood woodland jungle grove rainforest pine birch trees taiga",
        Setting.CITY: (
            "city town street road downtown skyline skyscraper building urban highway alley avenue neon metropolis "
            "traffic tokyo york paris london"
        ),
        Setting.DESERT: "desert dune sahara cactus oasis canyonland wasteland mars",
        Setting.SNOWFIELD: "arctic antarctica tundra glacier iceberg ice icy frozen winter polar northpole",
        Setting.UNDERWATER: "underwater reef coral seabed aquarium undersea deepsea seaweed",
        Setting.SPACE: "space galaxy cosmos planet orbit nebula universe cosmic interstellar asteroid saturn jupiter",
    },
)
WEATHERS = _table(
    {
        Weather.CLEAR: "clear cloudless",
        Weather.CLOUDS: "cloud cloudy overcast clouds",
        Weather.RAIN: "rain rainy drizzle shower downpour rainfall",
        Weather.SNOW: "snow snowy snowfall snowflake blizzard snowstorm",
        Weather.FOG: "fog foggy mist misty haze hazy smog",
        Weather.STORM: "storm stormy thunder thunderstorm lightning tempest hurricane",
    },
)
KINDS = _table(
    {
        "boat": "boat sailboat yacht dinghy sail canoe kayak raft gondola catamaran",
        "ship": "ship steamer steamboat ferry liner freighter vessel battleship submarine",
        "duck": "duck duckling swan goose geese",
        "whale": "whale orca",
        "fish": "fish goldfish clownfish salmon tuna shark dolphin koi",
        "balloon": "balloon airship zeppelin blimp",
        "bird": (
            "bird gull seagull dove pigeon eagle hawk owl crow raven parrot sparrow swallow crane heron albatross "
            "phoenix robin"
        ),
        "butterfly": "butterfly butterflies moth bee dragonfly",
        "dragon": "dragon wyvern dinosaur pterodactyl",
        "plane": "plane airplane aeroplane aircraft jet airliner helicopter glider drone",
        "rocket": "rocket spaceship spacecraft starship missile shuttle",
        "ufo": "ufo saucer",
        "kite": "kite",
        "star": "star comet meteor",
        "heart": "heart",
        "car": "car automobile taxi cab convertible sedan jeep coupe suv racecar racer vehicle",
        "bus": "bus buses coach minibus tram trolley van campervan",
        "truck": "truck lorry pickup tractor",
        "bicycle": "bicycle bike cyclist motorcycle motorbike biker scooter bicyclist",
        "train": "train locomotive tramway railway railroad subway",
        "person": (
            "person people man men woman women boy girl child children kid kids human walker hiker runner dancer "
            "traveler traveller astronaut knight samurai princess prince king queen wizard witch farmer grandmother "
            "grandfather mother father lady gentleman couple friend soldier skier surfer pedestrian hero ninja pirate "
            "monk tourist student cowboy artist"
        ),
        "robot": "robot android cyborg mech machine",
        "penguin": "penguin puffin",
        "cat": "cat kitten kitty tabby",
        "dog": "dog puppy puppies pup hound retriever labrador corgi poodle wolf wolves husky",
        "fox": "fox",
        "horse": "horse pony stallion mare unicorn foal donkey zebra mustang",
        "deer": "deer stag elk moose reindeer fawn antelope gazelle giraffe",
        "bear": "bear cub panda grizzly",
        "rabbit": "rabbit bunny bunnies hare",
        "cow": "cow bull ox calf cattle buffalo",
        "sheep": "sheep lamb goat ram",
        "elephant": "elephant mammoth rhino hippo",
        "lion": "lion lioness tiger leopard cheetah panther jaguar",
        "ball": "ball football basketball beachball marble sphere orb",
        "tree": "tree oak maple willow cherry",
        "flower": "flower rose tulip daisy sunflower blossom poppy lily",
        "house": "house cottage hut cabin home barn farmhouse villa",
        "castle": "castle palace fortress",
        "lighthouse": "lighthouse",
        "windmill": "windmill mill",
        "snowman": "snowman snowmen",
        "umbrella": "umbrella parasol",
    },
    Subject,
)
# Words that say more than their kind: what is this colour by nature.
NATURE: dict[str, str] = {
    word: colour
    for colour, words in {
        "white": "swan goose geese dove zebra unicorn panda daisy astronaut gull seagull poodle",
        "gray": "shark dolphin wolf wolves husky knight donkey",
        "orange": "goldfish clownfish tiger leopard phoenix basketball corgi",
        "brown": "hawk owl eagle football",
        "black": "crow raven panther witch",
        "green": "parrot",
        "yellow": "taxi retriever sunflower bee giraffe submarine",
        "red": "rose tulip poppy robin",
        "purple": "wizard",
        "pink": "cherry",
    }.items()
    for word in words.split()
}
COLOUR_WORDS = _table(
    {
        "red": "red crimson scarlet ruby maroon vermilion",
        "orange": "orange amber tangerine copper rusty ginger",
        "yellow": "yellow gold golden lemon",
        "green": "green emerald lime olive jade",
        "teal": "teal turquoise cyan aqua mint",
        "blue": "blue navy azure cobalt indigo sapphire",
        "purple": "purple violet lilac lavender magenta mauve",
        "pink": "pink rosy salmonpink fuchsia coral-pink",
        "white": "white ivory snow-white pale",
        "black": "black ebony jet-black",
        "gray": "gray grey silver silvery steel",
        "brown": "brown beige tan chestnut wooden bronze",
    },
    Colour,
)
SIZE_WORDS = _table(
    {
        Size.SMALL: "small little tiny miniature mini wee toy distant",
        Size.LARGE: "large big huge giant gigantic enormous massive colossal great",
    },
)
MOTIONS = _table(
    {
        Go.GO: (
            "drift sail float drive walk run go move travel glide fly flies flew roll swim ride stroll race rush "
            "pass cruise gallop trot wander march hike soar cross wade row slide skate ski speed hurry jog sprint "
            "stride creep crawl chase migrate flutter"
        ),
        Motion.LEFT: "left leftward leftwards westward",
        Motion.RIGHT: "right rightward rightwards eastward",
        Motion.RISE: "rise rises rose rising ascend climb lift launch takeoff up upward upwards skyward emerge",
        Motion.SINK: "sink descend fall drop land down downward downwards dive lower plunge plummet",
        Motion.CIRCLE: "circle orbit loop spin whirl rotate revolve turn twirl swirl",
        Motion.BOUNCE: "bounce jump hop leap dance skip juggle prance",
        Motion.GROW: "grow approach near come closer toward towards nearer expand swell bloom",
        Motion.STILL: (
            "still stand sit rest sleep wait motionless parked anchored hover stay stationary lie perch graze stop idle"
        ),
    },
)
EXTRAS = _table(
    {
        Extra.RAINBOW: "rainbow",
        Extra.AURORA: "aurora borealis northernlights polarlights",
        Extra.FIREWORKS: "firework fireworks",
        Extra.AUTUMN: "autumn autumnal fall-colours foliage october november",
        Extra.BLOSSOM: "sakura cherryblossom blossoming",
        Extra.SUN: "sun",
    },
)
COUNTS = _table(
    {
        2: "two couple pair both",
        3: "three several some few",
        4: "four many",
        5: "five six seven flock herd school swarm dozen",
    }
)
TABLE: dict[str, Meaning] = {
    **MOTIONS, **TIMES, **SETTINGS, **WEATHERS, **EXTRAS, **KINDS, **COLOUR_WORDS, **SIZE_WORDS, **COUNTS,
}  # fmt: skip

MOST_ACTORS = 4
ANIMALS = _words("cat dog fox horse deer bear rabbit cow sheep elephant lion bird fish duck penguin whale")
LANDSCAPES: tuple[Setting, ...] = tuple(
    setting for setting in Setting if setting not in (Setting.SPACE, Setting.UNDERWATER)
)
REALM_HOMES: dict[Realm, tuple[Setting, ...]] = {
    Realm.WATER: (Setting.SEA, Setting.LAKE),
    Realm.DEEP: (Setting.UNDERWATER,),
    Realm.GROUND: tuple(setting for setting in LANDSCAPES if setting not in (Setting.SEA, Setting.LAKE)),
}
HOMES: dict[str, tuple[Setting, ...]] = {
    "lighthouse": (Setting.SEA,),
    "penguin": (Setting.SNOWFIELD,),
    "snowman": (Setting.SNOWFIELD,),
    "bus": (Setting.CITY,),
    "windmill": (Setting.HILLS,),
}
GARMENTS = _words("dress coat jacket shirt hat scarf cape cloak robe sweater hoodie suit raincoat uniform")
BREAKS = _words(
    "on in over above under below at through with across along behind near beside by into onto around from and "
    "while against beneath"
)
NEGATIONS = _words("no without not never")

PHRASES = (
    (r"\bfrom (the )?left to (the )?right\b", " right "),
    (r"\bfrom (the )?right to (the )?left\b", " left "),
    (r"\b(on|in|at) the (left|right)( side)?\b", " "),
    (r"\bgolden hour\b", " goldenhour "),
    (r"\bgolden retriever\b", " retriever "),
    (r"\bhot[- ]air balloon", " balloon"),
    (r"\bnorthern lights\b", " northernlights "),
    (r"\bnorth pole\b", " northpole "),
    (r"\bcherry blossoms?( trees?)?\b", " cherryblossom "),
    (r"\btake(s|n)? off|taking off\b", " takeoff "),
    (r"\bflying saucer\b", " ufo "),
    (r"\bdeep sea\b", " deepsea "),
    (r"\bfall(ing)? (colou?rs|leaves)\b", " autumn "),
    (r"\bfalling (snow|rain)\b", r" \1 "),
    (
        r"\b(sun|moon) (rises|rising|sets|setting|goes down|comes up)\b",
        lambda m: " sunset " if m[2][0] in "sg" else " sunrise ",
    ),
    (r"\b(setting|sinking) sun\b", " sunset "),
    (r"\brising sun\b", " sunrise "),
    (r"\bshooting star\b", " star "),
    (r"\bunder (the )?(sea|water|ocean)\b", " underwater "),
    (r"\bsea(bed| floor)\b", " seabed "),
    (r"\bouter space\b", " space "),
    (r"\blight(house)? beam\b", " "),
    (r"\bsteam (train|engine|locomotive)\b", " train "),
    (r"\bfishing (boat|ship|trawler)\b", " boat "),
    (r"\bpirate ship\b", " ship "),
    (r"\bsnow[- ]?(capped|covered) (mountain|peak|alp)", r" \2"),
    (r"\bpolar bear\b", " white bear "),
    (r"\brubber duck", " duck"),
    (r"\b(jet|deep|pitch)[- ]black\b", " black "),
    (r"\bslow(ly)? motion\b", " "),
    (r"\b(old|wild|fresh) (?=\w)", " "),
)
# The usual negative prompt of the SkyReels examples names faults of pictures, not things to leave out.
FAULTS_OF_PICTURES = (
    r"bright tones|overall gr[ae]y|still picture|many people in the background|(walking|moving) backwards"
)
CAMERAS = (
    (
        Camera.PAN_LEFT,
        r"\b(pan(s|ning|ned)?|truck(s|ing)|tracking shot|camera \w+|camera)( \w+){0,2} (to the )?left(wards?)?\b",
    ),
    (
        Camera.PAN_RIGHT,
        r"\b(pan(s|ning|ned)?|truck(s|ing)|tracking shot|camera \w+|camera)( \w+){0,2} (to the )?right(wards?)?\b",
    ),
    (
        Camera.PUSH_IN,
        r"\b(zoom|push|dolly|dollies|move)(s|es|ing)? ?-?in\b|\b(zoom|dolly) shot\b|\bzooms\b|\bclose[- ]?up\b",
    ),
    (Camera.PULL_OUT, r"\b(zoom|pull|dolly|dollies|move)(s|es|ing)? ?-?(out|back|away)\b|\bpull(s|ing)? back\b"),
    (
        Camera.STILL,
        r"\b(static|still|fixed|locked|tripod|stationary) (camera|shot)\b|\bcamera (stays|is) (still|static)\b",
    ),
    (Camera.PAN_RIGHT, r"\b(pan|pans|panning|panorama|tracking shot|aerial shot)\b"),
)
