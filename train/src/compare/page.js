'use strict';
// A click on a heading sorts its table: figures the best known end first, what is missing last.
for (const table of document.querySelectorAll('table')) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const down = head.getAttribute('aria-sort') !== 'descending' && (head.className === 'figure' || head.hasAttribute('aria-sort'));
      for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      const figure = row => row.cells[at].dataset.value;
      const order = (a, b) => head.className === 'figure' ? figure(a) - figure(b)
        : a.cells[at].textContent.localeCompare(b.cells[at].textContent, undefined, { numeric: true });
      const rows = [...body.rows];
      const missing = row => head.className === 'figure' && figure(row) === undefined;
      const known = rows.filter(row => !missing(row)).sort((a, b) => down ? order(b, a) : order(a, b));
      body.append(...known, ...rows.filter(missing));
    });
  });
}
