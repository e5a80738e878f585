"""Makes portraits of people who never were: label maps of a prepared dataset, random style codes and attributes.

    python examples/make_portraits.py --prepared runs/paintings runs/faces --out examples/portraits --seed 3

Only the shape of a face is taken from the dataset, mirrored at random; light, colours and hair are drawn. The files say
in their metadata that they were generated.
"""

from __future__ import annotations

import io
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from capricious.data.prepared import PreparedDataset
from capricious.faces.attributes import Attributes
from capricious.faces.label_map import resize_label_map
from capricious.model.bundle import DEFAULT, load_bundle
from capricious.render.renderer import to_uint8

SIDE = 256
"""Pixels of a file: the network's picture, enlarged, so that a viewer and a face detector have something to look at."""

MOST_TURNED = 20.0
"""Degrees that a head may look away."""

KIND = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:dc="http://purl.org/dc/elements/1.1/">
<Iptc4xmpExt:DigitalSourceType>{kind}</Iptc4xmpExt:DigitalSourceType>
<dc:description><rdf:Alt>
<rdf:li xml:lang="x-default">A sitter who never was, made by Capricious (bundle {bundle})</rdf:li>
</rdf:Alt></dc:description>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


@torch.inference_mode()
def main() -> None:
    arguments = ArgumentParser(description=__doc__)
    arguments.add_argument("--prepared", nargs="+", required=True)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--bundle", default=DEFAULT)
    arguments.add_argument("--count", type=int, default=12)
    arguments.add_argument("--truncation", type=float, default=0.7, help="spread of the style codes; 1 is the prior's")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    bundle, draw = load_bundle(options.bundle), np.random.default_rng(options.seed)
    generator, resolution = bundle.generator, bundle.generator.config.resolution
    datasets = [PreparedDataset(path) for path in options.prepared]
    options.out.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        dataset = datasets[number % len(datasets)]
        portrait = dataset.portrait(int(draw.integers(len(dataset))))
        while abs(portrait.pose[:2]).max() > MOST_TURNED:
            portrait = dataset.portrait(int(draw.integers(len(dataset))))
        labels = resize_label_map(np.asarray(Image.open(io.BytesIO(portrait.label_map))), resolution)
        if draw.random() < 0.5:
            labels = np.ascontiguousarray(labels[:, ::-1])
        sitter = Attributes(age=float(draw.uniform(18, 70)), gender=portrait.attributes.gender, glasses="none")
        latent = options.truncation * torch.from_numpy(draw.standard_normal((1, generator.config.latent))).float()
        made = generator(torch.from_numpy(labels)[None], latent, torch.from_numpy(sitter.vector())[None])
        file = options.out / f"sitter-{number + 1:02d}.png"
        metadata = PngInfo()
        metadata.add_itxt("XML:com.adobe.xmp", PACKET.format(kind=KIND, bundle=bundle.sha256))
        Image.fromarray(to_uint8(made)[0]).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(file, pnginfo=metadata)
        print(file, f"{sitter.age:.0f} years")


if __name__ == "__main__":
    main()
