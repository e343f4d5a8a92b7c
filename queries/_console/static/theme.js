// Before anything is painted: the theme that was chosen here, or else the system's.
"use strict";
const chosen = localStorage.getItem("fogbook-theme");
if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
