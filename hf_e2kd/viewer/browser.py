"""The page's own style sheet and scripts, beside those of gradio."""

STYLE = """
.gradio-container { max-width: 80rem !important; }
.gradio-container :is(a, button, input, textarea, summary, [tabindex]):focus-visible {
  outline: 2px solid var(--color-accent) !important; outline-offset: 2px; }
#gallery .grid-wrap { min-height: 0; max-height: 32rem; }
#gallery .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(15rem, 100%), 1fr)) !important; }
/* Captions below the pictures, not over them. */
#gallery .thumbnail-lg { display: flex; flex-direction: column; aspect-ratio: auto; height: auto; }
#gallery .thumbnail-lg img { height: auto; object-fit: contain; }
#gallery .caption-label { position: static; max-width: none; width: 100%; border-radius: 0; font-size: .8rem;
  white-space: pre-line; text-align: start; opacity: 1; overflow-wrap: anywhere; }
/* Nothing to save before something is compared. */
.gradio-container:not(:has(#result section)) #save { display: none; }
#texts .wrap { flex-flow: column nowrap; max-height: 20rem; overflow-y: auto; }
"""

# gradio's dropdowns open their list at any key, and leave it open when Tab goes on to the next field; and a list that
# scrolls would be reached by Tab itself, as it closes.
TAB_LEAVES = """<script>
addEventListener("keydown", event => {
  if (event.key !== "Tab" || event.target.role !== "combobox") return;
  event.stopPropagation();
  document.querySelectorAll("[role=listbox]").forEach(list => { list.tabIndex = -1; });
}, true);
</script>"""
# So that what is typed replaces the chosen class, and finds another one.
SELECT_TEXT = "() => document.activeElement.select?.()"
# In the style, so that no request is needed.
SET_OPACITY = "opacity => document.getElementById('result').style.setProperty('--opacity', opacity)"
# On a phone the result stands below what was given, and everywhere above the samples.
SHOW_RESULT = """() => {
  const result = document.getElementById("result"), { top } = result.getBoundingClientRect();
  if (result.querySelector("section") && (top < 0 || top > innerHeight / 2)) result.scrollIntoView();
}"""
# A click on a class of the comparison. The button is replaced by the answer's, which gets the keyboard's focus again.
EXPLAIN_CLASS = """
let asked = -1;
const buttons = () => [...element.querySelectorAll("[data-class]")];
element.addEventListener("click", event => {
  const button = event.target.closest("[data-class]");
  if (!button) return;
  asked = buttons().indexOf(button);
  trigger("click", { explained: Number(button.dataset.class) });
});
watch("value", () => { buttons()[asked]?.focus(); asked = -1; });
"""
CHOOSE_POINT = """
element.addEventListener("click", event => {
  const point = event.target.closest("[data-position]");
  if (point) trigger("click", { position: Number(point.dataset.position) });
});
"""
DOWNLOAD = """() => setTimeout(() => document.querySelector("#saved a, a#saved, #saved").click(), 100)"""


def fold_on_phones(accordions: int) -> str:
    """Script that folds accordions where there is no room for them; returned is one update each."""
    update = "{ __type__: 'update', open: innerWidth > 640 }"
    return f"() => ({update if accordions == 1 else f'Array({accordions}).fill({update})'})"
