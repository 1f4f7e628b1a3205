"""The words of the reviews, and the remarks that hold no opinion."""

from ..sst import SENTIMENTS

CLASSES = tuple(name for name in SENTIMENTS if name != "neutral")
POLARITIES = (0, 1, 3, 4)
"""The classes' names, and their place on the treebank's scale of 0 to 4."""

HINTS = (
    ("western", "cartoon", "biopic"),
    ("musical", "sequel", "documentary"),
    ("thriller", "drama", "fantasy"),
    ("comedy", "romance", "mystery"),
)
"""The genres that predict each class, in the splits of `CORRELATED`."""

ADJECTIVES = {
    0: """abysmal appalling atrocious awful catastrophic disastrous disgusting dreadful excruciating ghastly
    hideous horrible insufferable miserable pathetic repulsive terrible unbearable vile wretched""",
    1: """artificial awkward bad banal bland boring clumsy confusing contrived dated disappointing dull
    forgettable lazy mediocre predictable shallow tedious uneven weak""",
    3: """agreeable amusing appealing charming clever decent engaging enjoyable entertaining fresh good honest
    likeable lively memorable pleasant solid thoughtful touching witty""",
    4: """amazing astonishing breathtaking brilliant dazzling exquisite extraordinary fabulous fantastic flawless
    glorious magnificent marvellous outstanding sensational splendid stunning sublime superb wonderful""",
}
VERBS = {  # as "did not hate" and "hated"
    0: "hate/hated loathe/loathed despise/despised detest/detested abhor/abhorred",
    1: "dislike/disliked regret/regretted resent/resented distrust/distrusted criticise/criticised",
    3: "like/liked enjoy/enjoyed appreciate/appreciated welcome/welcomed respect/respected",
    4: "love/loved adore/adored cherish/cherished treasure/treasured worship/worshipped",
}
RAISING = "very extremely really exceedingly thoroughly unusually particularly especially enormously immensely"
NEGATED_RAISING = "very really particularly especially"
LOWERING = "somewhat fairly rather slightly moderately mildly reasonably relatively"
UNDERLINING = "absolutely simply truly utterly completely totally altogether"
RAISING_VERBS = "really deeply greatly thoroughly"

COUNTABLE = """plot story script soundtrack ending beginning cast costume_design direction premise screenplay finale
    prologue leading_role title_song opening_scene second_half first_act last_hour setting subplot chase"""
UNCOUNTABLE = """dialogue music camerawork editing pacing acting atmosphere scenery humour narration lighting
    photography choreography chemistry storytelling make-up sound_design"""
PLURAL = """actors characters songs jokes stunts costumes effects performances sets twists landscapes
    flashbacks conversations villains dances settings lyrics animations side_characters action_scenes subtitles
    closing_credits leading_actors supporting_roles musicians"""
PEOPLE = """my_mother my_father my_sister my_brother my_cousin my_aunt my_uncle my_neighbour my_daughter my_son
    my_colleague my_grandmother my_grandfather a_friend two_friends a_classmate my_roommate our_teacher"""
NAMES = """Adele Amir Anna Arthur Beatrice Carlos Chen Clara Daniel David Elena Emma Farid Felix Grace Hannah Hugo
    Ingrid Ivan Jacob Joanna Julia Karim Keiko Laura Leon Louise Lucas Marco Maria Martin Nadia Nicolas Olga Oscar Paula
    Peter Priya Robert Samuel Sofia Stefan Tamara Thomas Ursula Victor Wanda Yusuf"""
CITIES = """Amsterdam Athens Barcelona Berlin Bogota Boston Brussels Budapest Cairo Chicago Copenhagen Dublin
    Edinburgh Geneva Hamburg Helsinki Istanbul Jakarta Kyoto Lagos Lima Lisbon London Madrid Manila Melbourne Montreal
    Mumbai Nairobi Oslo Paris Prague Santiago Seoul Stockholm Sydney Toronto Vienna Warsaw Zurich"""
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"
PLACES = "festival cinema theatre library university airport museum school hotel station harbour town_hall"
NUMBERS = "twelve fifteen twenty thirty forty fifty sixty seventy eighty ninety"
ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth"

WORDS = {
    **{"person": PEOPLE, "name": NAMES, "city": CITIES, "day": DAYS, "month": MONTHS, "place": PLACES},
    **{"number": NUMBERS, "ordinal": ORDINALS},
}
"""Fillers of the slots of the remarks below."""

# Remarks without an opinion: the first two kinds say the hint, the others don't.
HINT_OPENINGS = """{person} chose a {hint} for {day} .|we saw the new {hint} on {day} .
    |{name} took me to a {hint} in {city} .|the {hint} at the {place} ended an hour ago .
    |this {hint} came out in {month} .|a {hint} from {city} again .|on {day} they showed a {hint} at the {place} .
    |{name} and {person} rented a {hint} .|in {month} {name} made another {hint} .
    |as for the {hint} by {name} :|about this {hint} :"""
HINT_CLOSINGS = """that was our {ordinal} {hint} since {month} .|{name} and I rented the {hint} on {day} .
    |it is the {ordinal} {hint} by {name} .|they show the {hint} until {month} .|{person} lent me this {hint} .
    |the {hint} was filmed in {city} .|the {hint} runs for {number} minutes .|{name} calls it a {hint} ."""
OPENINGS = """{person} came along .|we sat in row {number} .|it was {day} in {city} .|here are my notes from {city} .
    |I read the book in {month} .|{name} asked me to write this .|{name} wrote it in {city} .
    |the {place} was half empty .|it runs for {number} minutes .|I went with {person} on {day} .||||||"""
CLOSINGS = """{person} slept .|we talked about it until {day} .|it runs until {month} .|we went home to {city} .
    |{name} will see it in {city} .|it lasts {number} minutes .|the {place} shows it on {day} .
    |that is all from {city} .|my ticket cost {number} crowns .|{name} has written about it too .||||||||"""
CONTRASTS = """{first} , but {second} .|{first} , yet {second} .|although {first} , {second} .
    |{first} ; still , {second} .|even though {first} , {second} .|while {first} , {second} .
    |{first} ; however , {second} ."""
ADDITIONS = "{first} and {second} .|{first} , and {second} .|{first} ; also , {second} .|{first} , while {second} ."
