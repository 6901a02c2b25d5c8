package names

// The words are friendly ones and about nobody.

// adjectives come first in a name.
var adjectives = [...]string{
	"able", "agile", "airy", "alert", "amber", "ample", "autumn", "azure", "balmy", "bold", "brave", "breezy",
	"bright", "brisk", "bronze", "bubbly", "busy", "calm", "candid", "careful", "cheerful", "chilly", "civil",
	"clean", "clear", "clever", "coastal", "cobalt", "copper", "coral", "cosmic", "cosy", "crimson", "crisp",
	"curious", "dainty", "dapper", "daring", "deep", "dewy", "distant", "dreamy", "eager", "early", "earnest",
	"easy", "emerald", "fabled", "fair", "faithful", "fancy", "fearless", "festive", "fiery", "floral",
	"fluent", "fond", "frank", "free", "fresh", "friendly", "frosty", "gallant", "gentle", "giddy", "gilded",
	"glad", "gleaming", "golden", "graceful", "grand", "grassy", "green", "handy", "happy", "hardy", "hazel",
	"hearty", "hidden", "honest", "hopeful", "humble", "icy", "ideal", "indigo", "ivory", "jade", "jolly",
	"jovial", "keen", "kind", "lasting", "lavish", "leafy", "lilac", "lively", "lofty", "loyal", "lucid",
	"lucky", "lunar", "mellow", "merry", "mighty", "mild", "misty", "modest", "mossy", "neat", "nimble",
	"noble", "northern", "olive", "open", "patient", "peaceful", "pearly", "plucky", "polar", "polite", "proud",
	"quick", "quiet", "rapid", "ready", "roaming", "rosy", "royal", "ruby", "rustic", "sandy", "scarlet",
	"seaside", "serene", "sharp", "shining", "silent", "silver", "simple", "sincere", "sleek", "smiling",
	"smooth", "snowy", "solar", "southern", "spirited", "spry", "stable", "starry", "steady", "still", "sturdy",
	"summer", "sunny", "swift", "tall", "teal", "tender", "tidy", "tranquil", "trusty", "upbeat", "useful",
	"valiant", "velvet", "verdant", "vivid", "wandering", "warm", "western", "whole", "wild", "willing",
	"windy", "winter", "wise", "witty", "wondrous", "young", "zesty",
}

// nouns are of the outdoors.
var nouns = [...]string{
	"acorn", "albatross", "alder", "alpaca", "anchor", "antelope", "apricot", "arbor", "aspen", "aurora",
	"badger", "bamboo", "basil", "bay", "beacon", "beaver", "birch", "bison", "bluebell", "bobcat", "bramble",
	"breeze", "bridge", "brook", "buffalo", "canyon", "caribou", "cedar", "chestnut", "cliff", "cloud",
	"clover", "comet", "condor", "cove", "crane", "creek", "cricket", "cypress", "daisy", "dale", "dawn",
	"deer", "delta", "dolphin", "dove", "dragonfly", "dune", "dusk", "eagle", "echo", "egret", "elk", "elm",
	"ember", "falcon", "fern", "finch", "fir", "firefly", "fjord", "fox", "gazelle", "geyser", "glacier",
	"glade", "goose", "grove", "gull", "harbor", "hare", "hawk", "hazelnut", "heath", "hedgehog", "heron",
	"hill", "horizon", "hornbill", "ibis", "iris", "island", "ivy", "jackal", "jaguar", "jasmine", "jay",
	"juniper", "kestrel", "kite", "koala", "lagoon", "lake", "lantern", "larch", "lark", "laurel", "lemur",
	"leopard", "lily", "lion", "lotus", "lynx", "magnolia", "magpie", "mallard", "maple", "marmot", "marsh",
	"marten", "meadow", "mesa", "meteor", "mink", "mint", "moon", "moose", "moth", "mountain", "narwhal",
	"nebula", "newt", "nightingale", "oak", "oasis", "ocean", "orchid", "oriole", "osprey", "otter", "owl",
	"panda", "panther", "pebble", "pelican", "penguin", "peony", "petrel", "pine", "planet", "plateau",
	"plover", "pond", "poplar", "poppy", "prairie", "puffin", "puma", "quail", "quartz", "rabbit", "raccoon",
	"rain", "raven", "reed", "reef", "ridge", "river", "robin", "rowan", "sable", "sage", "salmon", "sandpiper",
	"seal", "sequoia", "shore", "sky", "snowflake", "sparrow", "spring", "spruce", "squirrel", "star",
	"starling", "stork", "stream", "summit", "swallow", "swan", "sycamore", "tapir", "tern", "thicket",
	"thistle", "thrush", "tiger", "tortoise", "toucan", "trail", "trout", "tulip", "tundra", "turtle", "valley",
	"violet", "walnut", "walrus", "waterfall", "wave", "whale", "willow", "wind", "wolf", "wombat",
	"woodpecker", "wren", "yak", "yew", "zebra",
}
