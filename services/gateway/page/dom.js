// Small helpers over the document; text goes in as text, never as markup.

export const byId = (id) => document.getElementById(id);

/** A new element with attributes and children; a null or false attribute is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) attribute(made, name, value);
  made.append(...children);
  return made;
}

export function attribute(of, name, value) {
  if (value === null || value === false || value === undefined) of.removeAttribute(name);
  else if (of.getAttribute(name) !== String(value)) of.setAttribute(name, value);
}

/** Sets the text only if it is new, so that screen readers and layout are left alone. */
export function text(of, words) {
  if (of.textContent !== words) of.textContent = words;
}

/** Gives it these children, and leaves them alone if it has them: what is put in anew begins its animations anew. */
export function arrange(parent, children) {
  const same = parent.children.length === children.length && children.every((child, i) => parent.children[i] === child);
  if (!same) parent.replaceChildren(...children);
}
