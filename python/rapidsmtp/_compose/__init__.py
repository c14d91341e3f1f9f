"""Message composition: conversion to bytes, templates, recipients lists and signatures."""
