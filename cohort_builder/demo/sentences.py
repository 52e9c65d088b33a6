"""The sentences that reports are made of.

Placeholders of a fact: ``{size}``, ``{a_size}`` (with its article), ``{obs}``, ``{a_obs}``, ``{place}`` (with its
article if any), ``{bare_place}``; ``{ref}``, ``{prior}``, ``{verdict}``: empty, or with the space or comma before
it. A name that starts with a capital starts its sentence.
"""

from __future__ import annotations

from segmentation.phantoms import Organ

GROUPS: dict[str, tuple[Organ, ...]] = {
    "Lungs and pleura": (Organ.LUNG,),
    "Mediastinum": (Organ.MEDIASTINUM,),
    "Liver and biliary system": (Organ.LIVER,),
    "Spleen": (Organ.SPLEEN,),
    "Adrenal glands": (Organ.ADRENAL,),
    "Kidneys": (Organ.KIDNEY,),
    "Lymph nodes and mesentery": (Organ.RETROPERITONEUM, Organ.MESENTERY),
    "Bones": (Organ.BONE,),
}
GROUPS_OF = {
    "chest": ("Lungs and pleura", "Mediastinum", "Bones"),
    "abdomen": (
        "Liver and biliary system",
        "Spleen",
        "Adrenal glands",
        "Kidneys",
        "Lymph nodes and mesentery",
        "Bones",
    ),
}

SIZED = (
    "There is {a_size} {obs} in {place}{ref}{prior}.",
    "{A_obs} in {place} measures {size}{ref}{prior}.",
    "In {place} there is {a_obs} measuring {size}{ref}{prior}.",
    "{Obs} in {place}, {size}{ref}{prior}.",
    "{A_size} {obs} is seen in {place}{ref}{prior}.",
)
SHORT_AXIS = (
    "{A_obs} in {place} measures {size} in short axis{ref}{prior}.",
    "{Obs} in {place}, {size} in short axis{ref}{prior}.",
)
PRIOR_FIRST = "Previously {prior_size}, the {obs} in {place} now measures {size}{ref}."
UNSIZED = (
    "{A_obs} is noted in {place}{ref}.",
    "{Obs} in {place}{ref}.",
)
ESTIMATED = (
    "{A_obs} in {place}, approximately {size}{ref}.",
    "There is {a_obs} in {place} of about {size}{ref}.",
)
TELEGRAM = ("{obs} {bare_place} {size}{ref}{prior}.", "{bare_place}: {obs}, {size}{ref}{prior}.")
TELEGRAM_SHORT = ("{obs} {bare_place} {size} short axis{ref}{prior}.",)
TELEGRAM_UNSIZED = ("{obs} {bare_place}{ref}.",)
TELEGRAM_ESTIMATED = ("{obs} {bare_place}, approx. {size}{ref}.",)

PRIOR_LARGER = (", previously {prior_size}", " (previously {prior_size})", ", increased from {prior_size}")
PRIOR_SMALLER = (", previously {prior_size}", " (prior: {prior_size})", ", decreased from {prior_size}")
PRIOR_SAME = (", unchanged", " (previously {prior_size})", ", stable")
PRIOR_NEW = (", new since the prior examination", ", not seen before", ", new")

IMPRESSION_SIZED = (
    "{Obs} in {place}, {size}{verdict}.",
    "{A_size} {obs} in {place}{verdict}.",
)
IMPRESSION_UNSIZED = ("{Obs} in {place}{verdict}.",)
VERDICTS: dict[Organ, tuple[str, ...]] = {
    Organ.LUNG: (", suspicious for malignancy", "; short-term follow-up advised", ""),
    Organ.MEDIASTINUM: (", suspicious for nodal metastasis", ", indeterminate"),
    Organ.LIVER: (", suspicious for metastasis", "; MRI recommended for characterization", ""),
    Organ.SPLEEN: (", indeterminate", ""),
    Organ.KIDNEY: ("; further work-up recommended", ", concerning for renal cell carcinoma"),
    Organ.ADRENAL: (", indeterminate", "; biochemical work-up suggested"),
    Organ.MESENTERY: (", indeterminate", ""),
    Organ.RETROPERITONEUM: (", suspicious for nodal metastasis", ""),
    Organ.BONE: (", suspicious for metastasis", ""),
}

DISTANCES: dict[Organ, tuple[str, ...]] = {
    Organ.LUNG: ("It lies 2 cm from the hilum.", "The distance to the pleura is 8 mm.", "It abuts the pleura."),
    Organ.LIVER: ("It lies 1.5 cm from the portal vein bifurcation.", "It comes within 6 mm of the liver capsule."),
    Organ.KIDNEY: ("The distance to the collecting system is 7 mm.",),
}
NORMAL: dict[str, tuple[tuple[str, ...], ...]] = {
    "Lungs and pleura": (
        ("No pleural effusion or pneumothorax.", "No consolidation.", "Mild dependent atelectasis."),
        ("A few further nodules < 4 mm.", "Central airways are patent.", "No pleural effusion."),
        ("Minor apical scarring.", "No pleural effusion.", "The trachea and main bronchi are patent."),
    ),
    "Mediastinum": (
        ("Heart size is normal, no pericardial effusion.", "The ascending aorta measures 3.4 cm in diameter."),
        (
            "No axillary lymph nodes larger than 10 mm in short axis.",
            "Port catheter tip 2 cm above the cavoatrial junction.",
        ),
        ("Coronary calcifications.", "The main pulmonary artery measures 2.8 cm."),
    ),
    "Liver and biliary system": (
        ("No biliary dilatation, the common bile duct measures 5 mm.", "The portal vein is patent."),
        ("The liver is normal in size and contour.", "The gallbladder is unremarkable."),
    ),
    "Spleen": (("The spleen measures 10.4 cm in length.",), ("The spleen is not enlarged.",)),
    "Adrenal glands": (("No adrenal thickening.",), ("The adrenal limbs are slender.",)),
    "Kidneys": (("No hydronephrosis, no calculi.",), ("Both kidneys enhance symmetrically.", "No hydronephrosis.")),
    "Lymph nodes and mesentery": (
        ("No ascites, no free air.", "The infrarenal aorta measures 1.9 cm."),
        ("No inguinal lymph nodes larger than 1 cm in short axis.", "No free fluid."),
    ),
    "Bones": (("Degenerative changes of the spine.",), ("No acute fracture.", "Mild spondylosis."), ("No fracture.",)),
}
CLEAR = {
    "Lungs and pleura": "No suspicious pulmonary nodule.",
    "Mediastinum": "No enlarged mediastinal or hilar lymph nodes.",
    "Liver and biliary system": "No focal liver lesion.",
    "Spleen": "No focal splenic lesion.",
    "Adrenal glands": "No adrenal nodule.",
    "Kidneys": "No renal mass.",
    "Lymph nodes and mesentery": "No enlarged retroperitoneal or mesenteric lymph nodes.",
    "Bones": "No suspicious lytic or sclerotic lesion.",
}
RESOLVED = {
    "chest": "The previously seen 8 mm consolidation in the lingula has resolved.",
    "abdomen": "The previous 3.5 cm perihepatic fluid collection has resolved.",
}

INDICATIONS = {
    "chest": (
        "Lung cancer, staging before therapy.",
        "Follow-up of pulmonary nodules.",
        "Melanoma, restaging under immunotherapy.",
        "Cough and weight loss for 3 months.",
    ),
    "abdomen": (
        "Colorectal carcinoma, restaging.",
        "Melanoma, restaging under immunotherapy.",
        "Weight loss, elevated liver enzymes.",
        "Suspected abdominal malignancy.",
    ),
}
CLOSING = (
    "No evidence of disease elsewhere in the scanned volume.",
    "Follow-up CT in 3 months recommended.",
    "Correlation with PET/CT may be considered.",
    "Discussion in the tumor board is suggested.",
)
