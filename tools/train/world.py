"""The world of the small picture models: plain emoji, and some of them in other colours.

    python tools/train/world.py --out world.npz [--sheet world.png] [--limit N]

Needs the Debian packages fonts-noto-color-emoji (the font, OFL) and unicode-cldr-core (the names in
English and Italian, Unicode licence).  KEEP less DROP says which emoji belong to the world: faces, animals,
plants, food, vehicles, buildings, weather, tools and common things; no flags, signs, letters, clock
faces, skin tones, people or ZWJ sequences.  Of emoji that look alike at 32x32 only the first is kept.
TINTED objects are drawn in other colours too ("blue car", "auto blu"), so that colour words mean
something; the pairs in HELD_OUT are never drawn, they test new combinations.

The file: images uint8 [N,128,128,3] on white, the world first; captions (JSON each: cp, en, it, the
keywords ken and kit, tint); alpha uint8 [N,128,128], how much of a pixel the emoji covers; n_world; and all [M,32,32,3], every single glyph of the font at 32x32, the
rivals of the nearest-glyph measure (all[i] is images[i] for i < N).
"""
import argparse
import json
import os
import random
import xml.etree.ElementTree as ET

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = "/usr/share/unicode/cldr/common"
SIZE, STRIKE = 128, 109                     # a picture's side; the font's only bitmap size

KEEP = """231A-231B 23F0-23F2 2600-2604 260E 2614-2615 2618 2620 2639-263A 265F-2660 2663 2666 2692-2694
2696-2697 2699 26A1 26B0-26B1 26BD-26BE 26C4-26C5 26C8 26CF 26D1 26D3 26E9-26EA 26F0-26F5 26F8 26FA
26FD 2702 2708-2709 270F 2712 2728 2744 2764 2B50 1F300 1F302 1F305 1F308 1F30A-1F30B 1F30D-1F30E
1F311 1F313 1F315 1F319-1F321 1F324-1F357 1F359-1F361 1F363-1F364 1F366-1F370 1F372-1F375
1F377-1F384 1F386-1F38A 1F38F 1F392-1F393 1F396 1F399 1F3A0-1F3A5 1F3A7-1F3AA 1F3AC-1F3BB
1F3BE-1F3C0 1F3C6 1F3C8 1F3CD-1F3CE 1F3D0 1F3D2-1F3D8 1F3DA 1F3DC-1F3E1 1F3E5-1F3E6 1F3EA-1F3EB
1F3ED-1F3EE 1F3F0 1F3F9-1F3FA 1F400-1F441 1F451-1F457 1F459-1F462 1F479-1F47B 1F47D-1F480 1F484
1F488-1F48E 1F490 1F492 1F494 1F498 1F4A1 1F4A3 1F4A5 1F4A7 1F4A9 1F4B0 1F4B3 1F4B5 1F4B8
1F4BA-1F4BC 1F4BE-1F4BF 1F4C1 1F4C5 1F4C8 1F4CB-1F4D0 1F4D5-1F4D7 1F4DA 1F4DC-1F4DE 1F4E1-1F4E3
1F4E6 1F4EB 1F4EE 1F4F0-1F4F1 1F4F7-1F4FD 1F50B-1F50D 1F511-1F512 1F514 1F516-1F517 1F525-1F52E
1F54A-1F54D 1F56F-1F570 1F576-1F579 1F58A-1F58D 1F5A5 1F5A8 1F5B1 1F5BC 1F5C3-1F5C4 1F5D1 1F5DD
1F5E1 1F5FB-1F5FD 1F5FF-1F602 1F604-1F60F 1F611 1F613-1F614 1F616 1F618 1F61B-1F61D 1F61F-1F622
1F624 1F627-1F62A 1F62C-1F635 1F637-1F63B 1F63E-1F640 1F642-1F644 1F648-1F64A 1F680-1F683 1F685
1F68C-1F68E 1F690-1F69C 1F6A0-1F6A2 1F6A4-1F6A6 1F6A8 1F6AA 1F6B2 1F6BD 1F6BF 1F6C1 1F6CB
1F6CD-1F6CF 1F6D2 1F6D5-1F6D6 1F6DE-1F6E1 1F6E5 1F6E9 1F6F0 1F6F3-1F6FC 1F910-1F917 1F920-1F925
1F927-1F92F 1F93F-1F945 1F947 1F94A-1F94B 1F94E-1F971 1F973-1F976 1F978 1F97A 1F97C-1F9AD 1F9B4
1F9B7 1F9BE 1F9C0-1F9C8 1F9CA-1F9CB 1F9D0 1F9E0 1F9E2-1F9E6 1F9E9-1F9EA 1F9EC-1F9FD 1FA70-1FA74
1FA78 1FA7A 1FA80-1FA86 1FA90-1FAA1 1FAA3 1FAA5-1FAA6 1FAA8-1FAA9 1FAB0-1FABA 1FAC0-1FAC1
1FAD0-1FAD2 1FAD5-1FAD6 1FAD8-1FAD9 1FAE0 1FAE2-1FAE3 1FAE7"""
DROP = """timer clock|shamrock|skull and crossbones|alembic|coffin|funeral urn|shinto shrine
umbrella on ground|flag in hole|ferry|black nib|cyclone|closed umbrella|globe showing americas
new moon|new moon face|first quarter moon face|last quarter moon face|shooting star
sun behind large cloud|wind face|fog|tornado|comet|burrito|roasted sweet potato|dango|shaved ice
custard|shortcake|curry rice|steaming bowl|clinking beer mugs|fork and knife with plate|sparkler
confetti ball|carp streamer|military medal|reminder ribbon|studio microphone|performing arts
clapper board|flower playing cards|musical notes|skis|racing car|ice hockey|snow-capped mountain
camping|beach with umbrella|building construction|houses|derelict house|national park
house with garden|convenience store|bank|red paper lantern|amphora|rat|mouse|ox|water buffalo
leopard|ram|boar|spiral shell|bug|front-facing baby chick|poodle|two-hump camel|dragon face
spouting whale|pig nose|chipmunk|woman's clothes|purse|clutch bag|woman's sandal|man's shoe|ogre
goblin|angry face with horns|barber pole|kiss mark|wedding|heart with arrow|money with wings|seat
optical disk|file folder|round pushpin|triangular ruler|open book|satellite antenna|loudspeaker
postbox|camera with flash|video camera|radio|videocassette|bookmark|link|nut and bolt|kaaba
synagogue|spider web|pen|card file box|file cabinet|old key|mount fuji|fountain pen|printer
grinning cat with smiling eyes|pouting cat|weary cat|hear-no-evil monkey|railway car|oncoming bus
trolleybus|minibus|oncoming police car|oncoming taxi|oncoming automobile|articulated lorry
mountain cableway|speedboat|horizontal traffic light|shopping bags|bellhop bell|hindu temple
motor boat|passenger ship|auto rickshaw|diving mask|goal net|martial arts uniform|softball
flying disc|shallow pan of food|stuffed flatbread|fortune cookie|takeout box|canned food|leafy green
moon cake|bagel|lab coat|hiking boot|flat shoe|cricket|microbe|badger|dodo|oyster|bison
mechanical arm|falafel|butter|beverage box|test tube|safety pin|sponge|one-piece swimsuit|briefs
thong sandal|nesting dolls|diya lamp|long drum|hook|plunger|sewing needle|headstone|mirror ball
beetle|cockroach|empty nest|anatomical heart|lungs|fondue|beans|bubbles
face with open eyes and hand over mouth|relieved face|grinning squinting face|anguished face
squinting face with tongue|smirking face|expressionless face|hushed face|slightly smiling face
disguised face|biting lip|weary face|downcast face with sweat|face with raised eyebrow|woozy face
winking face with tongue|stop watch|chess pawn|club suit|spade suit|diamond suit|alien monster
statue of liberty|tokyo tower|piñata|gorilla|orangutan|goat|hammer and pick|herb|moai|pager
fish cake|aerial tramway|mouse trap|artist palette|slot machine|stadium|dagger|crystal ball
magic wand|lotion bottle|abacus|film projector|roll of paper|fountain""".replace("\n", "|").split("|")

# name: hue in degrees, factor of saturation, Italian masculine and feminine
COLOURS = {"red": (0, 1., "rosso", "rossa"), "orange": (28, 1., "arancione", "arancione"),
           "yellow": (50, 1., "giallo", "gialla"), "green": (120, .9, "verde", "verde"),
           "blue": (215, 1., "blu", "blu"), "purple": (278, .9, "viola", "viola"),
           "pink": (332, .65, "rosa", "rosa")}
TINTED = """1F34E apple mela|1F350 pear pera|1F34C banana banana|1F353 strawberry fragola|1F345 tomato pomodoro
1F955 carrot carota|1F431 cat gatto|1F436 dog cane|1F430 rabbit coniglio|1F981 lion leone|1F438 frog rana
1F42F tiger tigre|1F437 pig maiale|1F434 horse cavallo|1F41F fish pesce|1F422 turtle tartaruga
1F409 dragon drago|1F98B butterfly farfalla|1F419 octopus polpo|1F426 bird uccello|1F989 owl gufo
1F339 rose rosa|1F337 tulip tulipano|1F333 tree albero|1F344 mushroom fungo|1F3E0 house casa
1F697 car auto|1F68C bus autobus|1F680 rocket razzo|1F69C tractor trattore|26F5 sailboat barca_a_vela
1F388 balloon palloncino|1F381 gift regalo|2B50 star stella|1F319 moon luna|1F455 t-shirt maglietta
1F457 dress vestito|1F9E2 cap cappellino|1F511 key chiave|1F514 bell campana|1F4D5 book libro
1F382 cake torta|1F369 doughnut ciambella|1F3B8 guitar chitarra|1F600 smiling_face faccina_sorridente
1F525 fire fuoco|1F451 crown corona|1F41E ladybird coccinella|2764 heart cuore|1F98A fox volpe
1F31E sun sole|1F9F8 teddy_bear orsacchiotto|1F45F shoe scarpa""".replace("\n", "|")
HELD_OUT = {("blue", "apple"), ("purple", "cat"), ("green", "car"), ("blue", "rabbit"), ("pink", "house"),
            ("green", "rose"), ("blue", "banana"), ("purple", "star"), ("green", "pig"), ("pink", "frog")}


def codes(text):
    out = set()
    for part in text.split():
        a, _, b = part.partition("-")
        out |= set(range(int(a, 16), int(b or a, 16) + 1))
    return out


def annotations(cldr, lang):
    """cp -> (name, keywords), from CLDR's annotations of one language."""
    names, keys = {}, {}
    for a in ET.parse(os.path.join(cldr, "annotations", lang + ".xml")).iter("annotation"):
        if a.get("type") == "tts":
            names[a.get("cp")] = a.text.strip().lower().replace("’", "'")
        else:
            keys[a.get("cp")] = [k.strip().lower().replace("’", "'") for k in a.text.split("|")]
    return {c: (n, [k for k in keys.get(c, []) if k != n]) for c, n in names.items()}


def render(font, text):
    """The glyph as RGBA, or None where the font has no single picture for `text`."""
    if not 100 < font.getlength(text) < 200:
        return None
    im = Image.new("RGBA", (136, 128), (255, 255, 255, 0))
    box = font.getbbox(text)
    ImageDraw.Draw(im).text((-box[0], -box[1]), text, font=font, embedded_color=True)
    return im if np.asarray(im)[..., 3].any() else None


def on_white(rgba):
    """[128,128,4]: the glyph on white with a margin of 2 pixels at each side, and its alpha."""
    w = SIZE - 4
    im = rgba.resize((w, round(128 * w / 136)), Image.LANCZOS)
    out, alpha = Image.new("RGB", (SIZE, SIZE), (255, 255, 255)), Image.new("L", (SIZE, SIZE))
    at = (SIZE - im.width) // 2, (SIZE - im.height) // 2
    out.paste(im, at, im)
    alpha.paste(im.getchannel("A"), at)
    return np.dstack([np.asarray(out), np.asarray(alpha)])


def recolour(rgba, hue, sat):
    """Gives every coloured pixel the same hue; greys, black and white stay."""
    a = np.asarray(rgba.convert("RGB").convert("HSV")).astype(np.float32)
    coloured = a[..., 1] > 50
    a[..., 0] = np.where(coloured, hue / 360 * 255, a[..., 0])
    a[..., 1] = np.where(coloured, np.clip(a[..., 1] * sat, 0, 255), a[..., 1])
    out = Image.fromarray(a.astype(np.uint8), "HSV").convert("RGB")
    out.putalpha(rgba.getchannel("A"))
    return out


def small(images):
    """[n,128,128,3] uint8 -> [n,32,32,3] uint8, the mean of 4x4 pixels: where glyphs are compared."""
    n = len(images)
    return images.reshape(n, 32, 4, 32, 4, 3).mean((2, 4)).round().astype(np.uint8)


def distance(a, b):
    """Root mean square distance of every picture of a to every one of b, in levels of 255."""
    a, b = (x.reshape(len(x), -1).astype(np.float32) for x in (a, b))
    d = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(d, 0) / a.shape[1])


def glyphs(font_path, cldr):
    """cp -> (RGBA, names and keywords) of every single emoji that the font has."""
    font = ImageFont.truetype(font_path, STRIKE, layout_engine=ImageFont.Layout.RAQM)
    en, it = annotations(cldr, "en"), annotations(cldr, "it")
    out = {}
    for cp in sorted(en, key=lambda c: [ord(x) for x in c]):
        if len(cp) != 1 or ord(cp) < 0xA9 or cp not in it:
            continue
        im = render(font, cp)
        if im is not None:
            out[cp] = im, {"cp": cp, "en": en[cp][0], "it": it[cp][0], "ken": en[cp][1], "kit": it[cp][1]}
    return out


def tinted(plain, names, rng):
    """The recoloured objects: pictures and captions."""
    images, caps = [], []
    for entry in TINTED.split("|"):
        code, noun, inoun = entry.split()
        rgba, noun, inoun = plain[chr(int(code, 16))][0], noun.replace("_", " "), inoun.replace("_", " ")
        can = [k for k in COLOURS if (k, noun) not in HELD_OUT and f"{k} {noun}" not in names]
        for colour in rng.sample(can, 3):
            hue, sat, masc, fem = COLOURS[colour]
            first = inoun.split()[0]
            adj = fem if first.endswith("a") or first in ("tigre", "chiave", "volpe", "auto") else masc
            images.append(on_white(recolour(rgba, hue, sat)))
            caps.append({"cp": chr(int(code, 16)), "en": f"{colour} {noun}", "it": f"{inoun} {adj}",
                         "ken": [], "kit": [], "tint": colour})
    return images, caps


def build(font_path=FONT, cldr=CLDR, limit=0, alike=24.):
    """(images with alpha, captions, n_world, all at 32x32)."""
    plain = glyphs(font_path, cldr)
    want = codes(KEEP)
    images, caps, near, others = [], [], [], []
    for cp, (rgba, cap) in plain.items():
        im = on_white(rgba)
        tiny = small(im[None, ..., :3])
        if ord(cp) in want and cap["en"] not in DROP and (not near or distance(tiny, np.concatenate(near)).min() > alike):
            images.append(im), caps.append(cap), near.append(tiny)
        else:
            others.append(tiny)
    if limit:
        images, caps = images[:limit], caps[:limit]
    n_world = len(images)
    if not limit:
        more, morecaps = tinted(plain, {c["en"] for c in caps}, random.Random(1))
        images, caps = images + more, caps + morecaps
    images = np.stack(images)
    return images, caps, n_world, np.concatenate([small(images[..., :3]), *others])


def load(path):
    z = np.load(path)
    return z["images"], [json.loads(s) for s in z["captions"]], int(z["n_world"]), z["all"]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--font", default=FONT)
    p.add_argument("--cldr", default=CLDR)
    p.add_argument("--out", default="world.npz")
    p.add_argument("--sheet", help="a picture of the whole world")
    p.add_argument("--limit", type=int, default=0, help="only the first N, for a trial")
    a = p.parse_args()
    images, caps, n_world, every = build(a.font, a.cldr, a.limit)
    images, alpha = images[..., :3], images[..., 3]
    np.savez_compressed(a.out, images=images, captions=np.array([json.dumps(c) for c in caps]),
                        alpha=alpha, n_world=n_world, all=every)
    print(f"{n_world} emoji, {len(images) - n_world} recoloured, {len(every)} glyphs to be told apart")
    if a.sheet:
        n, rows = 32, -(-len(images) // 32)
        sheet = np.full((rows * 48, n * 48, 3), 255, np.uint8)
        for i, im in enumerate(images):
            y, x = i // n * 48, i % n * 48
            sheet[y:y + 48, x:x + 48] = np.asarray(Image.fromarray(im).resize((48, 48), Image.LANCZOS))
        Image.fromarray(sheet).save(a.sheet)


if __name__ == "__main__":
    main()
