"""The usual names of columns: those of public data sets, of warehouses, and of German and Dutch RIS exports.

Names are plain: lower case, words parted by "_", umlauts written out. Each field has groups of names, parted by "|": a
name of an earlier group is preferred to those of later ones, and two of one group are ambiguous.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import lru_cache

FIELDS: Mapping[str, str] = {
    "report_id": """
        report_id report_key report_uid report_number report_no report_nr radiology_report_id rad_report_id
        befund_id befundnummer befund_nr bericht_id berichtsnummer verslag_id verslagnummer verslag_nr |
        note_id document_id doc_id result_id event_id clinical_event_id |
        study_id exam_id examination_id order_proc_id order_id untersuchungs_id onderzoek_id |
        volume_name path_to_image |
        id row_id |
        accession_number accession_numbers accession accession_no accession_nbr accession_num acc_num acc_no
        acc_number accession_nr accessionnummer accessienummer accessie_nummer akzessionsnummer akzessionsnr
        zugangsnummer
    """,
    "text": """
        text report_text report full_report full_text report_full_text report_body report_content radiology_report
        radiology_report_text rad_report rad_report_text note_text document_text result_text befundtext befund_text
        befundbericht bericht berichttext berichtstext verslag verslagtekst verslag_tekst radiologieverslag |
        content contents body note document blob_contents event_result
    """,
    "accession_number": """
        accession_number accession_numbers accession accession_no accession_nbr accession_num acc_num acc_no
        acc_number acc accession_nr accessionnummer accessienummer accessie_nummer akzessionsnummer akzessionsnr
        zugangsnummer |
        filler_order_number filler_order_no
    """,
    "study_instance_uid": """
        study_instance_uid study_instance_uids study_uid study_iuid study_inst_uid dicom_study_uid studyuid
        dicom_study_instance_uid
    """,
    "patient_id": """
        patient_id patient_ids |
        mrn patient_mrn pat_mrn pat_mrn_id medical_record_number medical_record_no patientennummer patienten_nr
        patienten_id patientnummer patient_nr patient_number patient_no |
        subject_id deid_patient_id person_id pat_id
    """,
    "study_date": """
        study_date exam_date examination_date scan_date imaging_date performed_date study_datetime study_date_time
        exam_datetime exam_date_time examination_datetime exam_dttm begin_exam_dttm begin_exam_date performed_dt_tm
        performed_datetime untersuchungsdatum untersuchungszeitpunkt onderzoeksdatum onderzoekdatum datum_onderzoek |
        procedure_date service_date event_start_dt_tm charttime chartdate
    """,
    "language": """
        language report_language sprache taal
    """,
    "status": """
        status report_status result_status befundstatus verslagstatus result_status_cd report_state
    """,
    "version_key": """
        version_key report_version_key
    """,
    "version": """
        version report_version version_number revision revision_number addendum_number addendum_no is_addendum
        addendum_flag addendum_yn
    """,
    "issued_at": """
        issued_at issued issued_datetime issued_date issue_datetime |
        finalized_at finalized_datetime finalized_dttm finalized_date final_datetime final_date finalised_at |
        verified_at verified_datetime verified_dttm verified_dt_tm verified_date verified_time verification_date
        vidierdatum freigabedatum freigabezeitpunkt |
        signed_at signed_datetime signed_dttm signed_date sign_datetime sign_date approved_at approved_datetime
        approved_date autorisatiedatum authorized_datetime |
        report_date report_datetime report_date_time report_time report_dttm result_date result_datetime result_time
        result_dttm befunddatum befundzeitpunkt verslagdatum |
        storetime updated_at last_updated valid_from_dt_tm
    """,
    "path": """
        path report_path text_path txt_path file_path report_file text_file
    """,
}
"""Keys and the like; study_id is that of MIMIC-CXR, volume_name of CT-RATE, order_proc_id of Clarity."""
SECTIONS: Mapping[str, str] = {
    "indication": """
        indication indications reason_for_exam reason_for_examination reason_for_study exam_reason fragestellung
        rechtfertigende_indikation vraagstelling indicatie clinical_question
    """,
    "history": """
        clinical_history clinical_information clinical_info klinische_angaben anamnese klinische_gegevens |
        history
    """,
    "technique": """
        technique techniques scan_technique technik techniek methode
    """,
    "comparison": """
        comparison comparisons comparison_studies voraufnahmen voruntersuchungen vergelijking
    """,
    "findings": """
        findings finding observations befund befunde bevindingen bevinding |
        narrative
    """,
    "impression": """
        impression impressions conclusion conclusions opinion beurteilung conclusie assessment
    """,
    "recommendation": """
        recommendation recommendations empfehlung advies
    """,
    "addendum": """
        addendum addenda nachtrag addendum_text
    """,
}
"""Parts of the text."""

_PREFIXES = ("section_", "report_", "rpt_", "radiology_", "rad_", "ris_", "order_", "deid_")
_SUFFIXES = ("_text", "_txt", "_section", "_clean", "_deid")
_LANGUAGES = ("en", "de", "nl", "fr", "es", "it", "pt", "tr")
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "ß": "ss", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})
_RANKS = {
    (kind, name.replace("_", "")): rank
    for kind, groups in {**FIELDS, **SECTIONS}.items()
    for rank, names in enumerate(groups.split("|"))
    for name in names.split()
}
_IDENTIFYING = re.compile(
    r"(?:^|_)(?:names?|surname|forename|initials|birth\w*|dob|born|mrn|ssn|nhs\w*|insurance\w*|social_security\w*|address|street|"
    r"city|zip|postcode|postal\w*|phone|telephone|mobile|fax|e?mail|physicians?|doctor|radiologist|referr\w*|requester|"
    r"requesting\w*|author\w*|reader\w*|operator\w*|technologist|signed\w*|dictated\w*|other_patient_ids?|(?:visit|encounter|"
    r"admission|case|order|account|hospital|medical_record|patient)_?(?:id|number|no|nr|code)s?|institution\w*|department|ward|"
    r"clinician|consultant|surgeon|gp|attending|resident|provider|requestor|ordering\w*|interpreting\w*|transcri\w*|guardian|"
    r"(?:verified|approved|reported|reviewed)_by|next_of_kin|contact\w*|employer|nachname|vorname|familienname|geburts\w*|"
    r"geboorte\w*|achternaam|voornaam|arts|arzt|aerzt\w*|radioloog|aanvrager|zuweiser|einweiser|befunder|bsn|csn|hadm_id|"
    r"nom|prenom|apellidos?|nombre|cognome|nome)(?:_|$)|^(?:patient|pat|clinic|hospital)$"
)


@lru_cache(maxsize=4096)
def plain(column: str) -> str:
    """Return a column's name in lower case, words parted by "_", without accents.

    Examples
    --------
    >>> plain("VolumeName"), plain("Accession #"), plain("Prüf-Datum")
    ('volume_name', 'accession', 'pruef_datum')
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFC", column).translate(_UMLAUTS))
    letters = "".join(letter for letter in folded if not unicodedata.combining(letter))
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", letters)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


@lru_cache(maxsize=4096)
def fields_of(column: str) -> tuple[tuple[str, int], ...]:
    """Return the fields that a column's name may stand for, with the group of the name (0 is preferred)."""
    name = plain(column).replace("_", "")
    return tuple((field, _RANKS[field, name]) for field in FIELDS if (field, name) in _RANKS)


@lru_cache(maxsize=4096)
def section_of(column: str) -> tuple[str, int, str] | None:
    """Return the section that a column's name stands for, the group of the name, and the language it names ("" none).

    Examples
    --------
    >>> section_of("Impressions_EN"), section_of("section_findings")
    (('impression', 0, 'en'), ('findings', 0, ''))
    """
    name, language = plain(column), ""
    while True:
        for section in SECTIONS:
            if (section, name.replace("_", "")) in _RANKS:
                return section, _RANKS[section, name.replace("_", "")], language
        ending = name.rsplit("_", 1)[-1]
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")
        if ending in _LANGUAGES and "_" in name:
            name, language = name.removesuffix(f"_{ending}"), ending
        elif suffix:
            name = name.removesuffix(suffix)
        elif prefix:
            name = name.removeprefix(prefix)
        else:
            return None


def is_identifying(column: str) -> bool:
    """Whether the values of a column of this name identify somebody: they are struck from the text."""
    return _IDENTIFYING.search(plain(column)) is not None
