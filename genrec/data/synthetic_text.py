"""Word lists and titles of the planted catalogue: English that a text embedding can cluster.

Knows Polars and NumPy, and nothing of probabilities: the structure of the histories is in `genrec.data.synthetic`.
All brands are invented.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from genrec.data.schema import RAW_ITEMS

# category -> (words that stand for it in a title, {sub-category: nouns})
_CATALOGUE: dict[str, tuple[tuple[str, ...], dict[str, tuple[str, ...]]]] = {
    "Office Products": (
        ("Office", "Desk", "Workplace"),
        {
            "Writing": ("Ballpoint Pen", "Gel Pen", "Mechanical Pencil", "Highlighter", "Fountain Pen"),
            "Paper": ("Ruled Notebook", "Copy Paper", "Sticky Notes", "Index Cards", "Graph Pad"),
            "Filing": ("Ring Binder", "Hanging Folder", "Document Box", "Label Tape", "Archive File"),
            "Mailing": ("Padded Envelope", "Packing Tape", "Postal Scale", "Address Stamp", "Shipping Tube"),
        },
    ),
    "Kitchen & Dining": (
        ("Kitchen", "Cooking", "Culinary"),
        {
            "Cookware": ("Frying Pan", "Stock Pot", "Saucepan", "Grill Skillet", "Casserole"),
            "Cutlery": ("Chef Knife", "Bread Knife", "Paring Knife", "Carving Fork", "Knife Sharpener"),
            "Baking": ("Muffin Tin", "Rolling Pin", "Mixing Bowl", "Pastry Brush", "Cake Ring"),
            "Coffee": ("French Press", "Burr Grinder", "Milk Frother", "Pour Over Dripper", "Espresso Tamper"),
        },
    ),
    "Beauty": (
        ("Beauty", "Cosmetic", "Skincare"),
        {
            "Face": ("Day Cream", "Clay Mask", "Facial Toner", "Vitamin Serum", "Cleansing Foam"),
            "Hair": ("Shampoo", "Conditioner", "Hair Oil", "Round Brush", "Curl Spray"),
            "Nails": ("Nail Polish", "Cuticle Oil", "Nail File", "Base Coat", "Manicure Clipper"),
            "Fragrance": ("Eau de Toilette", "Perfume Mist", "Body Cologne", "Scented Balm", "Rose Water"),
        },
    ),
    "Toys & Games": (
        ("Toy", "Play", "Kids"),
        {
            "Building": ("Block Set", "Marble Run", "Magnet Tiles", "Gear Kit", "Log Cabin Bricks"),
            "Puzzles": ("Jigsaw Puzzle", "Cube Puzzle", "Maze Box", "Tangram", "Brain Teaser"),
            "Plush": ("Teddy Bear", "Stuffed Rabbit", "Hand Puppet", "Soft Dinosaur", "Cuddle Blanket"),
            "Board Games": ("Strategy Game", "Card Game", "Dice Game", "Chess Set", "Word Game"),
        },
    ),
    "Garden & Outdoor": (
        ("Garden", "Patio", "Backyard"),
        {
            "Planting": ("Flower Pot", "Seed Tray", "Potting Soil", "Raised Bed", "Trellis"),
            "Watering": ("Hose Reel", "Watering Can", "Lawn Sprinkler", "Drip Line", "Spray Nozzle"),
            "Pruning": ("Hedge Shears", "Bypass Lopper", "Pruning Saw", "Grafting Blade", "Twig Cutter"),
            "Grilling": ("Charcoal Grill", "Grill Tongs", "Smoker Chips", "Basting Mop", "Fire Starter"),
        },
    ),
    "Sports & Fitness": (
        ("Sports", "Fitness", "Training"),
        {
            "Yoga": ("Yoga Mat", "Yoga Block", "Stretch Strap", "Meditation Cushion", "Balance Pad"),
            "Strength": ("Dumbbell", "Kettlebell", "Resistance Band", "Weight Bench", "Push Up Bars"),
            "Running": ("Running Belt", "Arm Sleeve", "Reflective Vest", "Pace Watch", "Hydration Flask"),
            "Swimming": ("Swim Goggles", "Kickboard", "Swim Cap", "Pull Buoy", "Nose Clip"),
        },
    ),
    "Pet Supplies": (
        ("Pet", "Animal", "Companion"),
        {
            "Dogs": ("Dog Leash", "Chew Bone", "Dog Harness", "Puppy Pads", "Dog Bed"),
            "Cats": ("Scratching Post", "Litter Scoop", "Feather Wand", "Cat Tunnel", "Catnip Mouse"),
            "Aquarium": ("Fish Tank Filter", "Aquarium Gravel", "Water Heater", "Algae Scraper", "Fish Flakes"),
            "Birds": ("Bird Feeder", "Seed Mix", "Perch Ladder", "Cage Mirror", "Cuttlebone"),
        },
    ),
    "Tools & Hardware": (
        ("Tool", "Workshop", "Hardware"),
        {
            "Hand Tools": ("Claw Hammer", "Screwdriver Set", "Adjustable Wrench", "Slip Pliers", "Hex Keys"),
            "Power Tools": ("Cordless Drill", "Orbital Sander", "Jigsaw Cutter", "Heat Gun", "Angle Grinder"),
            "Fasteners": ("Wood Screws", "Wall Anchors", "Machine Bolts", "Finishing Nails", "Rivet Pack"),
            "Measuring": ("Tape Measure", "Spirit Level", "Digital Caliper", "Try Square", "Laser Distance Meter"),
        },
    ),
    "Electronics": (
        ("Electronic", "Digital", "Smart"),
        {
            "Audio": ("Headphones", "Bluetooth Speaker", "Earbuds", "Sound Bar", "Clip Microphone"),
            "Charging": ("USB Charger", "Power Bank", "Charging Cable", "Wall Adapter", "Wireless Charger"),
            "Computing": ("Computer Mouse", "Mechanical Keyboard", "Laptop Stand", "Webcam", "Card Reader"),
            "Photography": ("Camera Tripod", "Lens Filter", "Ring Light", "Memory Card", "Camera Strap"),
        },
    ),
    "Baby": (
        ("Baby", "Infant", "Nursery"),
        {
            "Feeding": ("Feeding Bottle", "Silicone Bib", "Sippy Cup", "Weaning Spoon", "Bottle Warmer"),
            "Diapering": ("Diaper Bag", "Changing Mat", "Diaper Pail", "Baby Wipes", "Rash Ointment"),
            "Sleep": ("Crib Sheet", "Swaddle Wrap", "Night Lamp", "Mobile Chime", "Sleeping Sack"),
            "Bathing": ("Bath Tub", "Hooded Towel", "Bath Thermometer", "Rinse Cup", "Foam Letters"),
        },
    ),
    "Music": (
        ("Music", "Studio", "Stage"),
        {
            "Guitar": ("Guitar Strings", "Guitar Pick", "Capo", "Guitar Stand", "Fretboard Polish"),
            "Drums": ("Drum Sticks", "Practice Drum", "Cymbal Felt", "Snare Head", "Drum Key"),
            "Recording": ("Pop Filter", "Microphone Boom", "Audio Interface", "Acoustic Panel", "Patch Cable"),
            "Keyboards": ("Piano Bench", "Sustain Pedal", "Keyboard Cover", "Sheet Holder", "Tuning Lever"),
        },
    ),
    "Automotive": (
        ("Car", "Vehicle", "Motor"),
        {
            "Car Care": ("Wash Mitt", "Wax Paste", "Wheel Brush", "Windscreen Cleaner", "Chamois Cloth"),
            "Interior": ("Seat Cover", "Floor Liner", "Steering Sleeve", "Trunk Organiser", "Sun Shade"),
            "Lighting": ("Headlight Bulb", "Tail Lamp", "Fog Light", "LED Strip", "Hazard Beacon"),
            "Tyres": ("Tyre Gauge", "Air Compressor", "Tyre Sealant", "Valve Caps", "Lug Socket"),
        },
    ),
}
_BRAND_STEMS = (
    "Alder",
    "Bramble",
    "Cinder",
    "Dunmore",
    "Elmwood",
    "Fenwick",
    "Glimmer",
    "Hollis",
    "Ivory",
    "Juniper",
    "Kestrel",
    "Larkspur",
)
_BRAND_ENDS = ("crest", "mill", "works")
_ADJECTIVES = (
    "Compact",
    "Classic",
    "Premium",
    "Everyday",
    "Portable",
    "Heavy-Duty",
    "Slim",
    "Deluxe",
    "Folding",
    "Handmade",
    "Lightweight",
    "Original",
)
_COLOURS = ("Black", "White", "Blue", "Red", "Green", "Grey", "Amber", "Teal", "Violet", "Silver")
_MATERIALS = ("bamboo", "steel", "cotton", "rubber", "aluminium", "glass", "leather", "canvas", "plastic")

MAX_CATEGORIES = len(_CATALOGUE)
MAX_SUBCATEGORIES = 4  # of each category


def describe_items(
    item_ids: list[str], category: np.ndarray, subcategory: np.ndarray, rng: np.random.Generator
) -> pl.DataFrame:
    """Titles, brands, categories and descriptions.

    Args:
        item_ids: N ids.
        category: [N], 0 to MAX_CATEGORIES - 1.
        subcategory: [N], place within the category, 0 to MAX_SUBCATEGORIES - 1.
        rng: draws the words of each item.

    Returns:
        [N] rows of the schema `RAW_ITEMS`, in the order of `item_ids`; titles are unique.
    """
    names = list(_CATALOGUE)
    draws = rng.random((len(item_ids), 6))
    rows: dict[str, list[object]] = {name: [] for name in RAW_ITEMS}
    for index, item_id in enumerate(item_ids):
        name = names[category[index]]
        words, subcategories = _CATALOGUE[name]
        sub = list(subcategories)[subcategory[index]]
        word, noun, end, adjective, colour, material = (
            choices[int(draw * len(choices))]
            for choices, draw in zip(
                (words, subcategories[sub], _BRAND_ENDS, _ADJECTIVES, _COLOURS, _MATERIALS), draws[index], strict=True
            )
        )
        brand = _BRAND_STEMS[category[index]] + end
        rows["item_id"].append(item_id)
        rows["title"].append(f"{brand} {adjective} {word} {noun}, {colour}, Model {brand[0]}{index:04d}")
        rows["brand"].append(brand)
        rows["categories"].append([name, sub])
        rows["description"].append(
            f"{adjective} {noun.lower()} in {colour.lower()} {material}, from the {sub.lower()} range of {brand}. "
            f"Made for {word.lower()} use."
        )
    return pl.DataFrame(rows, schema=RAW_ITEMS)
