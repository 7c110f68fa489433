/* The charts of the report. */
"use strict";
