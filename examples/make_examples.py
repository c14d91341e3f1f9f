"""Write newsletter.eml and subscribers.csv, with the same bytes on every machine.

    python examples/make_examples.py

Both files are symbolic links to files in the package, because `rapidsmtp demo` sends the same
files. All names, shops and addresses are invented. The domains of the addresses are reserved for
examples (RFC 2606).
"""

# ruff: noqa: RUF001  (characters of other scripts that look like Latin ones are intended)

import base64
import csv
import random
import struct
import zlib
from email.header import Header
from pathlib import Path

HERE = Path(__file__).resolve().parent
SUBSCRIBERS = 1000

# Given names, family names and cities. After the slash is the spelling of the name in an email
# address.
PEOPLE = {
    "de": (
        ["Jürgen/juergen", "Anneliese/anneliese", "Käthe/kaethe", "Matthias/matthias", "Zoë/zoe"],
        ["Müller/mueller", "Weiß/weiss", "Schönfeld/schoenfeld", "Großmann/grossmann"],
        ["Hamburg", "Köln", "Leipzig"],
    ),
    "en": (
        ["Margaret/margaret", "Oliver/oliver", "Siobhán/siobhan", "Priya/priya", "Dwayne/dwayne"],
        ["O'Brien/obrien", "Whitfield/whitfield", "Hargreaves/hargreaves", "Okonkwo/okonkwo"],
        ["Bristol", "Cork", "Halifax"],
    ),
    "es": (
        ["María/maria", "Íñigo/inigo", "Lucía/lucia", "Andrés/andres", "Begoña/begona"],
        ["Núñez/nunez", "Peña/pena", "Gutiérrez/gutierrez", "Echeverría/echeverria"],
        ["Málaga", "Logroño", "Medellín"],
    ),
    "pl": (
        ["Łukasz/lukasz", "Małgorzata/malgorzata", "Żaneta/zaneta", "Wojciech/wojciech"],
        ["Wiśniewska/wisniewska", "Dąbrowski/dabrowski", "Zając/zajac", "Król/krol"],
        ["Kraków", "Łódź", "Gdańsk"],
    ),
    "vi": (
        ["Thảo/thao", "Đức/duc", "Hạnh/hanh", "Tuấn/tuan"],
        ["Nguyễn/nguyen", "Trần/tran", "Phạm/pham", "Đặng/dang"],
        ["Hà Nội", "Đà Nẵng", "Huế"],
    ),
    "el": (
        ["Ελένη/eleni", "Γιώργος/giorgos", "Δήμητρα/dimitra", "Θανάσης/thanasis"],
        ["Παπαδοπούλου/papadopoulou", "Οικονόμου/oikonomou", "Βασιλείου/vasileiou"],
        ["Θεσσαλονίκη", "Πάτρα"],
    ),
    "uk": (
        ["Олена/olena", "Тарас/taras", "Юлія/yuliia", "Андрій/andrii"],
        ["Шевченко/shevchenko", "Коваленко/kovalenko", "Бондаренко/bondarenko"],
        ["Львів", "Київ"],
    ),
    "ar": (
        ["ليلى/layla", "يوسف/yusuf", "فاطمة/fatima", "كريم/karim"],
        ["حداد/haddad", "منصور/mansour", "الخطيب/alkhatib"],
        ["عمّان", "تونس"],
    ),
    "hi": (
        ["अनन्या/ananya", "राहुल/rahul", "मीरा/meera", "विक्रम/vikram"],
        ["शर्मा/sharma", "पटेल/patel", "अय्यर/iyer"],
        ["पुणे", "जयपुर"],
    ),
    "ja": (
        ["さくら/sakura", "健太/kenta", "美咲/misaki", "大輔/daisuke"],
        ["佐藤/sato", "鈴木/suzuki", "高橋/takahashi"],
        ["京都", "札幌"],
    ),
    "ko": (
        ["지우/jiwoo", "서연/seoyeon", "민준/minjun", "하은/haeun"],
        ["김/kim", "박/park", "최/choi"],
        ["서울", "부산"],
    ),
}
FAMILY_FIRST = frozenset(("vi", "ja", "ko"))
# Names as people enter them in forms, by row number. Each name contains characters that are syntax
# in an address field, so the encoder must quote or encode it.
UNUSUAL = {
    41: 'María "Mari" Núñez, Sr.',
    142: "Whitfield, Margaret (Bristol)",
    543: "Zoë <3",
}


def subscribers() -> list[dict[str, str]]:
    """Return the rows of the recipients list. About three of ten subscribers are members."""
    chance = random.Random("subscribers")
    rows = []
    for number in range(1, SUBSCRIBERS + 1):
        language = chance.choice(sorted(PEOPLE))
        given_names, family_names, cities = PEOPLE[language]
        given, given_latin = chance.choice(given_names).split("/")
        family, family_latin = chance.choice(family_names).split("/")
        names = (family, given) if language in FAMILY_FIRST else (given, family)
        domain = chance.choice(("example.com", "example.org", "example.net"))
        rows.append(
            {
                "id": f"{number}",
                "name": UNUSUAL.get(number, " ".join(names)),
                "email": f"{given_latin}.{family_latin}.{number}@{domain}",
                "city": chance.choice(cities),
                "member": "yes" if chance.random() < 0.3 else "",
                "token": f"{chance.getrandbits(96):024x}",
            }
        )
    return rows


def banner(width: int = 600, height: int = 150) -> bytes:
    """Return a PNG (RFC 2083) with a bookshelf in front of an evening sky."""
    chance = random.Random("banner")
    spines: list[tuple[int, tuple[int, int, int]]] = []
    while len(spines) < width:
        colour = chance.choice(((178, 58, 46), (38, 70, 83), (42, 157, 143), (233, 196, 106)))
        top = chance.randrange(40, 90)
        spines += [(top, colour)] * chance.randrange(12, 30) + [(height, (0, 0, 0))] * 2
    rows = bytearray()
    for y in range(height):
        rows.append(0)  # filter type: none
        for x in range(width):
            top, colour = spines[x]
            if y > height - 12:
                colour = (96, 62, 40)
            elif y < top:
                colour = (250 - y, 190 - y, 150 + y // 3)
            # The noise prevents visible bands in the sky's colours. It also makes the file as large
            # as a typical banner.
            grain = chance.choice((0, 0, 0, 2))
            rows += bytes(channel - grain if channel > 1 else channel for channel in colour)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, chunks))


def _chunk(chunk: tuple[bytes, bytes]) -> bytes:
    kind, data = chunk
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def newsletter() -> bytes:
    """Return the message file.

    The texts in the file have the encoding 8bit, so that people can edit them.
    """
    subject = Header("Der Lesesaal im Advent \u2014 for {{ name }}", "utf-8", header_name="Subject")
    image = base64.encodebytes(banner()).decode("ascii")
    text = (HERE / "newsletter.txt").read_text(encoding="utf-8")
    html = (HERE / "newsletter.html").read_text(encoding="utf-8")
    message = f"""\
From: Lesesaal Books =?utf-8?q?=28Caf=C3=A9_=26_Books=29?= <letters@example.com>
To: {{{{ name }}}} <{{{{ email }}}}>
Reply-To: Lesesaal Books <hello@example.com>
Subject: {subject.encode()}
List-Id: Letters from the Lesesaal <letters.example.com>
List-Unsubscribe: <https://example.com/unsubscribe/{{{{ token }}}}>,
 <mailto:unsubscribe@example.com?subject={{{{ token }}}}>
List-Unsubscribe-Post: List-Unsubscribe=One-Click
MIME-Version: 1.0
Content-Type: multipart/alternative; boundary="=_letter"

--=_letter
Content-Type: text/plain; charset="utf-8"
Content-Transfer-Encoding: 8bit

{text}
--=_letter
Content-Type: multipart/related; boundary="=_page"; type="text/html"

--=_page
Content-Type: text/html; charset="utf-8"
Content-Transfer-Encoding: 8bit

{html}
--=_page
Content-Type: image/png; name="shelf.png"
Content-Transfer-Encoding: base64
Content-Disposition: inline; filename="shelf.png"
Content-ID: <shelf@example.com>

{image}
--=_page--

--=_letter--
"""
    return message.encode("utf-8")


def main() -> None:
    """Write both files."""
    (HERE / "newsletter.eml").write_bytes(newsletter())
    rows = subscribers()
    with (HERE / "subscribers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
