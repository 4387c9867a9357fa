// The page's elements, by id.
const $ = id => document.getElementById(id);
